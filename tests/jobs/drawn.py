"""Corpora that the tests draw: small pictures, in files, tars, Parquet and manifests.

A corpus is a dictionary of relative paths and bytes, so that the same one can lie on a disk and in
a bucket.
"""

import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table
from PIL import Image

SIZES = ((48, 64), (64, 48), (40, 40))


def picture(seed: int) -> Image.Image:
    """Blurred blocks of random colours, in one of three sizes."""
    height, width = SIZES[seed % len(SIZES)]
    blocks = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(blocks).resize((width, height))


def png(seed: int) -> bytes:
    return encode_image(picture(seed))


def plain_corpus(count: int) -> dict[str, bytes]:
    """Images side by side under one prefix."""
    return {f"{index:03}.png": png(index) for index in range(count)}


def mixed_corpus(*, elsewhere: str) -> dict[str, bytes]:
    """Every kind of source in one prefix, beside files that are none.

    Args:
        elsewhere: location of `far.png`, which a manifest in the corpus names.
    """
    label_map = encode_image(Image.new("L", (64, 48), 3))
    return {
        "photos/000.png": png(0),
        "photos/001.jpg": encode_image(picture(1), "JPEG", quality=95),
        "photos/deep/er.webp": encode_image(picture(2), "WEBP", lossless=True),
        "shards/a.tar": tar(
            {
                "0001.png": label_map,
                "0001.json": b"{}",
                "0001.jpg": encode_image(picture(3), "JPEG", quality=95),
                "0002.jpg": encode_image(picture(4), "JPEG", quality=95),
                "sub/0003.png": png(5),
                "notes.txt": b"no image",
            }
        ),
        "shards/b.tar": tar({"0004.png": png(6), "0005.png": png(7)}),
        "rows.parquet": parquet([png(8), png(9), png(10)]),
        "list.csv": f"uri,image_id\n{elsewhere},far\n".encode(),
        "README.md": b"# what this is",
        "_SUCCESS": b"",
        ".hidden.png": png(12),
    }


def written_mixed_corpus(folder: Path) -> Path:
    """The mixed corpus in a folder, and beside it the image elsewhere."""
    far = written(folder / "elsewhere", {"far.png": FAR}) / "far.png"
    return written(folder / "corpus", mixed_corpus(elsewhere=str(far)))


FAR = png(11)
MIXED_IDS = {
    "photos/000.png",
    "photos/001.jpg",
    "photos/deep/er.webp",
    "shards/a.tar/0001",
    "shards/a.tar/0002",
    "shards/a.tar/sub/0003",
    "shards/b.tar/0004",
    "shards/b.tar/0005",
    "rows.parquet/0",
    "rows.parquet/1",
    "rows.parquet/2",
    "far",
}


def bad_corpus() -> dict[str, bytes]:
    """Draws broken images of many kinds beside some good ones."""
    flat = Image.fromarray(np.asarray(picture(1).convert("L")))
    deep = Image.fromarray(np.asarray(flat).astype(np.uint16) * 257)
    first, second = picture(2).quantize(16), picture(5).quantize(16)
    archive = tar({"0001.png": png(3), "0002.png": png(4), "0003.png": png(5)})
    return {
        "well/plain.png": png(0),
        "well/8-bit.png": encode_image(flat),
        "well/16-bit.png": encode_image(deep),
        "well/first.png": encode_image(first),
        "well/animated.gif": encode_image(first, "GIF", save_all=True, append_images=[second]),
        "bad/truncated.jpg": encode_image(picture(0), "JPEG", quality=95)[:-700],
        "bad/empty.jpg": b"",
        "bad/page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "bad/bomb.png": encode_image(Image.new("1", (14_000, 14_000))),
        "bad/cut.tar": archive[: second_end(archive)],
        "bad/list.jsonl": json.dumps({"uri": "gone.png"}).encode(),
    }


def second_end(archive: bytes) -> int:
    """Returns where the third member of a tar begins."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        return members.getmembers()[2].offset


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def parquet(images: Sequence[bytes]) -> bytes:
    """Writes images as Hugging Face datasets do: a struct of bytes and path."""
    rows = [{"image": {"bytes": data, "path": None}, "caption": "drawn"} for data in images]
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("caption", pa.string()),
        ]
    )
    return encode_table(pa.Table.from_pylist(rows, schema=schema))


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The folder, with the files in it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def spoil(path: Path) -> None:
    """Other content of the same size and time: who does not read it cannot tell."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
