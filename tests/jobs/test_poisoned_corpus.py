"""Images that end processes become rows that say so, and stop nothing else."""

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from as_files import encode_image
from drawn import picture, png, written
from job_runs import Jobs
from poison import DECODER_CRASHES, HANGS, MEMORY, MORE_CRASHES, POISON, SEGMENTER_CRASHES
from table_rows import rows_of


def png_of_size(width: int, height: int, *, pixels: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels)] if pixels else [(b"IHDR", header)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return (
        data[:middle]
        + bytes(byte ^ 0x55 for byte in data[middle : middle + 8])
        + data[middle + 8 :]
    )


def cut(kind: str) -> bytes:
    data = encode_image(picture(1), kind)
    return data[: 2 * len(data) // 3]


BAD_FILES = {
    "empty.png": (b"", "EmptyFile"),
    "page.jpg": (b"<!doctype html><html>404</html>", "NotAnImage"),
    "words.png": (b"not an image at all", "NotAnImage"),
    "zeros.png": (bytes(4096), "NotAnImage"),
    "noise.jpg": (bytes(range(256)) * 8, "NotAnImage"),
    "archive.png": (b"PK\x03\x04" + bytes(60), "NotAnImage"),
    "packed.png": (gzip.compress(png(1)), "NotAnImage"),
    "table.png": (b"PAR1" + bytes(60) + b"PAR1", "NotAnImage"),
    "drawing.png": (b'<?xml version="1.0"?><svg/>', "UnsupportedFormat"),
    "paper.png": (b"%PDF-1.7\n" + bytes(60), "NotAnImage"),
    "layers.png": (b"8BPS\0\1" + bytes(60), "UnsupportedFormat"),
    "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(60), "UnsupportedFormat"),
    "cut.png": (cut("PNG"), "TruncatedImage"),
    "cut.jpg": (cut("JPEG"), "TruncatedImage"),
    "cut.webp": (cut("WEBP"), "TruncatedImage"),
    "cut.bmp": (cut("BMP"), "TruncatedImage"),
    "cut.gif": (cut("GIF"), "TruncatedImage"),
    "damaged.png": (damaged(png(1)), "DamagedImage"),
    "header.png": (png_of_size(64, 48), "TruncatedImage"),
    "bomb.png": (
        png_of_size(100_000, 100_000, pixels=zlib.compress(bytes(10**6))),
        "DecompressionBomb",
    ),
}

Bad = dict[str, tuple[bytes, str]]


def label(
    jobs: Jobs, folder: Path, *, good: int, bad: Bad, usual: dict[str, Any], **options: Any
) -> None:
    """Runs on so many good images with the bad ones among them, and looks at the table."""
    names = [f"{index:05}.png" for index in range(good)]
    files = {name: png(index) for index, name in enumerate(names)}
    apart = max(1, good // len(bad))
    for number, (name, (data, _)) in enumerate(bad.items()):
        files[f"{min(number * apart, good - 1):05}-{name}"] = data
    ended = (
        jobs.start(
            corpus=written(folder / "corpus", files),
            table=folder / "table",
            error_budget=1,
            environment=POISON,
            **usual,
            **options,
        )
        .end(seconds=3000)
        .expect(3)
    )
    found = {row["image_id"]: row for row in rows_of(folder / "table").images}
    assert found.keys() == files.keys()
    assert {name for name, row in found.items() if row["status"] == "ok"} == set(names)
    classes = {name[6:]: row["error_class"] for name, row in found.items() if name not in names}
    assert classes == {name: error_class for name, (_, error_class) in bad.items()}
    for row in found.values():
        assert row["status"] == "ok" or row["image_id"] in row["error_message"]
    print(ended.stdout)


@pytest.mark.faults
def test_an_image_that_crashes_its_reader_is_found_and_the_rest_is_done(jobs, usual, tmp_path):
    bad = {**DECODER_CRASHES, "empty.png": BAD_FILES["empty.png"]}
    label(jobs, tmp_path, good=10, bad=bad, usual=usual, unit_images=7)


@pytest.mark.faults
def test_images_that_crash_a_reader_or_an_actor_are_found_and_the_rest_is_done(
    jobs, usual, tmp_path
):
    bad = {**DECODER_CRASHES, **SEGMENTER_CRASHES, "empty.png": BAD_FILES["empty.png"]}
    label(jobs, tmp_path, good=18, bad=bad, usual=usual, unit_images=7)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_poisoned_corpus_of_2000_images(jobs, usual, tmp_path):
    bad = {
        **DECODER_CRASHES, **SEGMENTER_CRASHES, **HANGS, **MEMORY, **MORE_CRASHES, **BAD_FILES,
    }  # fmt: skip
    label(
        jobs,
        tmp_path,
        good=2000,
        bad=bad,
        usual=usual,
        unit_images=100,
        image_seconds=10,
        segment_seconds=40,
        image_memory_bytes=2**30,
    )
