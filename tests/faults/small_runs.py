"""Runs without Ray and without a model: what a labelling run does to its table, in one process.

The functions are those of the product, called in its order; rows tell the bytes of their images.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.labelling.commit import Stager, clear_leftovers, clear_staging, commit_unit
from pipeline.labelling.rows import ROWS
from pipeline.planning.planner import Plan, Unit, UnitSettings, plan_corpus, settle_plan
from pipeline.storage import Storage
from pipeline.table.store import TableStore, images, segments

SPEC = panoptic_spec("road")
UNIT_IMAGES = 2


def label_what_lacks(
    corpus: Path,
    place: Path,
    *,
    run_id: str,
    pause_seconds: float = 0,
    is_noisy: bool = False,
    storage: Storage | None = None,
) -> None:
    """Labels what the table lacks.

    Args:
        is_noisy: whether segments and errors differ from run to run, as the last bits of a GPU's
            arithmetic do, and its lack of memory.
    """
    table = TableStore(str(place), storage or Storage())
    table.create(SPEC)

    def plan() -> Plan:
        return plan_corpus(
            str(corpus),
            table=table,
            spec=SPEC,
            reading=ReadSettings(),
            units=UnitSettings(unit_images=UNIT_IMAGES),
        )

    settled = settle_plan(plan(), plan_again=plan, table=table, run_id=run_id)
    for unit in settled.units:
        stage = Stager(table=table, run_id=run_id)
        receipts = []
        for block in _noisy_blocks(unit, run_id) if is_noisy else _blocks(unit):
            receipts += stage(block).to_pylist()
            time.sleep(pause_seconds)
        commit_unit(
            unit.unit_id,
            parts=[receipt["part"] for receipt in receipts if receipt["part"]],
            num_images=receipts[-1]["num_images"],
            table=table,
            spec=SPEC,
        )
        clear_staging(table, unit.unit_id)
    clear_leftovers(table)
    table.storage.write(table.file("_runs", run_id, "report.json"), b"{}")


def _images(unit: Unit) -> list[EncodedImage]:
    return [
        image
        for source in unit.sources
        for image in read_source(source, storage=Storage(), settings=ReadSettings())
    ]


def _noisy_blocks(unit: Unit, run_id: str) -> Iterator[pa.Table]:
    """Yields a block for each image; of eight attempts, one is an error, three find no segment."""
    found = _images(unit)
    for position, image in enumerate(found):
        random = np.random.default_rng([*run_id.encode(), *image.image_id.encode()])
        width, score, chance = (int(random.integers(1, 10)), random.random(), random.integers(8))
        ids = np.zeros((10, 10), np.int32)
        ids[:, :width] = chance > 3
        shapes = encode_segments(ids)
        segments = [
            {
                "segment_id": 1, "label_id": 0, "label": "road", "is_thing": True, "score": score,
                "area": area, "bbox_x": x, "bbox_y": y, "bbox_w": w, "bbox_h": h, "rle": rle,
            }
            for area, (x, y, w, h), rle in zip(
                shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True
            )
        ]  # fmt: skip
        row = {
            "unit_id": unit.unit_id, "kind": "image", "position": position, "status": "ok",
            "image_id": image.image_id, "uri": image.uri, "etag": image.etag, "height": 10,
            "width": 10, "num_segments": len(segments), "coverage": len(segments) * width / 10,
            "mean_score": score if segments else None, "segments": segments, "bytes_read": 1,
        }  # fmt: skip
        if chance == 0:
            row |= {"status": "error", "error_class": "SegmenterOutOfMemory", "coverage": None,
                    "error_message": f"no memory in {run_id}"}  # fmt: skip
        end = {"unit_id": unit.unit_id, "kind": "end", "position": len(found)}
        is_last = position + 1 == len(found)
        yield pa.Table.from_pylist([row, end] if is_last else [row], schema=ROWS)


def _blocks(unit: Unit) -> Iterator[pa.Table]:
    """Yields a block for each image, whose segment tells its bytes, and one that tells the end."""
    found = _images(unit)
    for position, image in enumerate(found):
        digest = hashlib.sha256(image.data or b"").hexdigest()
        segment = {"segment_id": 1, "label_id": 0, "label": "road", "rle": digest, "area": position}
        row = {
            "unit_id": unit.unit_id, "kind": "image", "position": position, "status": "ok",
            "image_id": image.image_id, "uri": image.uri, "etag": image.etag,
            "num_segments": 1, "segments": [segment], "bytes_read": 1,
        }  # fmt: skip
        end = {"unit_id": unit.unit_id, "kind": "end", "position": len(found)}
        is_last = position + 1 == len(found)
        yield pa.Table.from_pylist([row, end] if is_last else [row], schema=ROWS)


def begun(corpus: Path, place: Path, *, run_id: str, **options: Any) -> int:
    """The id of a process of its own that labels; it ends with 0, or 75 where it could not."""
    child = os.fork()
    if child:
        return child
    try:
        label_what_lacks(corpus, place, run_id=run_id, **options)
        os._exit(0)
    finally:
        os._exit(75)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def all_rows(place: Path) -> list[dict[str, Any]]:
    """All rows that a reader sees, of images and of segments; none where there is no table yet."""
    if not (place / "_table.json").exists():
        return []
    rows = [row for read in (images, segments) for row in read(str(place)).to_table().to_pylist()]
    return sorted(rows, key=lambda row: (row["image_id"], "segment_id" in row))


def written_corpus(folder: Path, *, names: Iterator[str] | list[str]) -> Path:
    """Files that are images by their names."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder
