"""Tables of real photographs, drawn and segmented without a model: files, archives and rows."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table
from drawn_tables import commit
from PIL import Image
from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.planning.planner import UnitSettings, plan_corpus, settle_plan
from pipeline.storage import Storage
from pipeline.table.store import TableSpec, TableStore

LABELS = ("car", "sky", "tree", "boat, rowing", "Füße")
SPEC = panoptic_spec(*LABELS, label_ids_to_fuse=(1, 2))
READING = ReadSettings()
HEIGHT, WIDTH = 60, 90


def box_photo(number: int, *, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """A sky over a field with a box: three regions with different colours in each image."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (90, 150, 240)
    pixels[height // 2 :] = (60, 160, 60)
    left = 5 + 7 * number % (width // 2)
    pixels[height // 3 : 2 * height // 3, left : left + width // 4] = (200, 40, number % 256)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, *, kind: str = "JPEG", **options: Any) -> bytes:
    return encode_image(image, kind, **options)


def ids_of(number: int, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """The regions of `photo`: 1 the sky, 2 the field, 3 the box; a strip below is void.

    An image of more than a megapixel has 60 segments, 10 in each of 6 rows.
    """
    if height * width > 10**6:
        rows = 6 * np.arange(height)[:, None] // height
        return (1 + 10 * rows + 10 * np.arange(width) // width).astype(np.int32)
    ids = np.ones((height, width), np.int32)
    ids[height // 2 :] = 2
    left = 5 + 7 * number % (width // 2)
    ids[height // 3 : 2 * height // 3, left : left + width // 4] = 3
    ids[-2:] = 0
    return ids


def segments_of(number: int, ids: np.ndarray, *, spec: TableSpec) -> list[dict[str, Any]]:
    """The rows of an image; a label that the table lacks becomes its first one."""
    shapes = encode_segments(ids)
    names = {1: "sky", 2: "tree", 3: ("car", "boat, rowing", "Füße")[number % 3]}
    labels = {s: spec.labels.index(n) if n in spec.labels else 0 for s, n in names.items()}
    labels |= {s: s % len(spec.labels) for s in range(4, len(shapes.rles) + 1)}
    fused = spec.label_ids_to_fuse or ()
    return [
        {
            "segment_id": segment, "label_id": labels[segment],
            "label": spec.labels[labels[segment]], "is_thing": labels[segment] not in fused,
            "score": round(0.95 - 0.03 * (number % 10) - 0.01 * segment, 4), "area": area,
            "bbox_x": x, "bbox_y": y, "bbox_w": w, "bbox_h": h, "rle": rle,
        }
        for segment, (area, (x, y, w, h), rle) in enumerate(
            zip(shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True), 1
        )
    ]  # fmt: skip


def write_corpus(
    place: str,
    *,
    kind: Literal["files", "tar", "parquet"],
    count: int,
    storage: Storage,
    names: Sequence[str] | None = None,
    photos: Sequence[bytes] | None = None,
) -> None:
    """Writes photographs as a folder of files, one archive or one Parquet file."""
    names = names or [f"{number:03}.jpg" for number in range(count)]
    photos = photos or [encoded(box_photo(number)) for number in range(count)]
    if kind == "files":
        for name, data in zip(names, photos, strict=True):
            storage.write(f"{place}/{name}", data)
    elif kind == "tar":
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in zip(names, photos, strict=True):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        storage.write(f"{place}/shard.tar", buffer.getvalue())
    else:
        rows = {"image": photos, "key": [Path(name).stem for name in names]}
        storage.write(f"{place}/rows.parquet", encode_table(pa.table(rows), row_group_size=3))


def label_corpus(
    corpus: str,
    table: str,
    *,
    storage: Storage | None = None,
    spec: TableSpec = SPEC,
    reading: ReadSettings = READING,
    unit_images: int = 5,
    run_id: str = "night-1",
) -> TableStore:
    """Labels every image of a corpus as a run would, with the regions that `photo` drew."""
    storage = storage or Storage()
    store = TableStore(table, storage)
    store.create(spec)

    def plan() -> Any:
        return plan_corpus(
            corpus, table=store, spec=spec, reading=reading,
            units=UnitSettings(unit_images=unit_images),
        )  # fmt: skip

    settled = settle_plan(plan(), plan_again=plan, table=store, run_id=run_id)
    number = 0
    for unit in settled.units:
        rows = []
        images = [
            image
            for source in unit.sources
            for image in read_source(source, storage=storage, settings=reading)
        ]
        for position, image in enumerate(images):
            rows.append(
                photo_row(image, number=number, position=position, unit_id=unit.unit_id, spec=spec)
            )
            number += 1
        commit(store, unit.unit_id, rows, spec=spec)
    return store


def photo_row(
    image: Any, *, number: int, position: int, unit_id: str, spec: TableSpec
) -> dict[str, Any]:
    row = {
        "unit_id": unit_id, "kind": "image", "position": position, "image_id": image.image_id,
        "uri": image.uri, "member": image.member, "etag": image.etag, "bytes_read": 10,
        "num_segments": 0, "coverage": None, "mean_score": None, "segments": [],
    }  # fmt: skip
    try:
        size = Image.open(io.BytesIO(image.data or b"")).size
    except OSError:
        error = {"status": "error", "error_class": "NotAnImage", "error_message": "no image"}
        return row | error | {"height": None, "width": None}
    width, height = size
    if Image.open(io.BytesIO(image.data)).getexif().get(0x0112, 1) > 4:
        width, height = height, width
    ids = ids_of(number, height=height, width=width)
    segments = segments_of(number, ids, spec=spec)
    return row | {
        "status": "ok", "height": height, "width": width, "num_segments": len(segments),
        "coverage": float((ids > 0).mean()), "segments": segments,
        "mean_score": sum(each["score"] for each in segments) / len(segments),
    }  # fmt: skip


def make_table(
    folder: Path | str,
    *,
    kind: Literal["files", "tar", "parquet"] = "files",
    count: int = 12,
    storage: Storage | None = None,
    **options: Any,
) -> TableStore:
    """A table over a new corpus; both lie below `folder`."""
    storage = storage or Storage()
    write_corpus(f"{folder}/corpus", kind=kind, count=count, storage=storage)
    return label_corpus(f"{folder}/corpus", f"{folder}/table", storage=storage, **options)
