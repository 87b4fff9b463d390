"""Nights that a test draws: a corpus, a table with the rows of a run, its plan and its report."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from as_files import encode_image, encode_table
from specs import panoptic_spec

from pipeline.corpora.sources import Source
from pipeline.labelling.commit import Stager, commit_unit
from pipeline.labelling.report import Report
from pipeline.labelling.rows import ROWS
from pipeline.nightly.reporting import publish_report
from pipeline.nightly.settings import ReportSettings
from pipeline.storage import Storage
from pipeline.table.store import TableSpec, TableStore

LABELS = ("road", "sky", "car", "tree")
_HEIGHT, _WIDTH = 24, 32


def new_table(folder: Path, *, labels: Sequence[str] = LABELS) -> TableStore:
    store = TableStore(str(folder / "table"), Storage())
    store.create(spec(labels))
    return store


def spec(labels: Sequence[str] = LABELS) -> TableSpec:
    return panoptic_spec(*labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """A drawn image: shares of its pixels by label, and a score for all segments."""

    image_id: str
    shares: dict[int, float] = dataclasses.field(default_factory=lambda: {0: 0.5, 1: 0.45})
    score: float = 0.9
    error: str | None = None
    uri: str = "/nowhere.jpg"
    member: str | None = None
    etag: str = "e"
    size: tuple[int, int] = (_HEIGHT, _WIDTH)


def usual_images(
    name: str, count: int, *, seed: int, shares: Sequence[float] = (0.4, 0.3, 0.2, 0.1)
) -> list[DrawnImage]:
    """Images that are all alike, but for chance."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(count):
        mixed = random.dirichlet(20 * np.array(shares)) * random.uniform(0.9, 0.99)
        images.append(
            DrawnImage(
                image_id=f"{name}/{number:05}.jpg",
                shares=dict(enumerate(mixed.tolist())),
                score=float(random.uniform(0.8, 0.95)),
            )
        )
    return images


def label_run(
    table: TableStore,
    run_id: str,
    units: dict[str, list[DrawnImage]],
    *,
    labels: Sequence[str] = LABELS,
    sources: dict[str, list[Source]] | None = None,
) -> None:
    """All that a run leaves of these images but its report."""
    for unit_id, images in units.items():
        rows = [_row(image, unit_id, i, labels=labels) for i, image in enumerate(images)]
        end = {"unit_id": unit_id, "kind": "end", "position": len(images)}
        receipts = Stager(table=table, run_id=run_id)(
            pa.Table.from_pylist([*rows, end], schema=ROWS)
        )
        (part,) = receipts["part"].to_pylist()
        commit_unit(unit_id, parts=[part], num_images=len(images), table=table, spec=spec(labels))
        table.storage.delete([part])
    plan(table, run_id, sources or {unit_id: _files(images) for unit_id, images in units.items()})


def plan(table: TableStore, run_id: str, sources: dict[str, list[Source]]) -> None:
    rows = [
        {"unit_index": index, "unit_id": unit_id, **dataclasses.asdict(source)}
        for index, (unit_id, of_unit) in enumerate(sources.items())
        for source in of_unit
    ]
    content = encode_table(pa.Table.from_pylist(rows))
    table.storage.write(table.file("_runs", run_id, "plan.parquet"), content)


def report(run_id: str = "20260102T020000-aaaaaa", **changes: Any) -> Report:
    said: dict[str, Any] = {
        "run_id": run_id, "table": "s3://bucket/table", "corpus": "s3://bucket/corpus",
        "exit_code": 0, "seconds": 600.0, "images": 100, "images_in_error": 0, "segments": 400,
        "images_per_second": 3.5, "bytes_read": 10_000_000, "units_planned": 1,
        "units_committed": 1, "units_done_before": 0, "errors": {}, "error_examples": {},
        "faults": {}, "files_passed_over": 0, "files_passed_over_examples": [],
        "files_named_twice": 0,
    }  # fmt: skip
    return Report(**{**said, **changes})


def label_earlier_runs(
    table: TableStore, count: int, *, images: int = 300, labels: Sequence[str] = LABELS
) -> None:
    """Labels usual images in earlier runs, with reports, on the first days of 2026."""
    for day in range(1, count + 1):
        run_id = f"202601{day:02}T020000-earlier"
        drawn = usual_images(run_id, images, seed=day)
        label_run(table, run_id, {f"unit-{run_id}": drawn}, labels=labels)
        settings = ReportSettings(strangest_images=0, sheet_images=0)
        publish_report(table, run_id, report(run_id, images=images), settings)


def photograph(seed: int, *, size: tuple[int, int] = (_HEIGHT, _WIDTH)) -> bytes:
    random = np.random.default_rng(seed)
    pixels = np.repeat(random.integers(0, 255, (size[0], 1, 3)), size[1], 1).astype(np.uint8)
    return encode_image(pixels, "JPEG", quality=90)


def file_source(path: Path) -> Source:
    found = Storage().file(str(path))
    assert found is not None
    return Source(
        uri=found.uri, name=path.name, kind="file", etag=found.etag, size=found.size, stop=1,
        num_images=1,
    )  # fmt: skip


def _files(images: Sequence[DrawnImage]) -> list[Source]:
    return [
        Source(uri=i.uri, name=i.image_id, kind="file", etag=i.etag, size=9, stop=1, num_images=1)
        for i in images
    ]


def _row(
    image: DrawnImage, unit_id: str, position: int, *, labels: Sequence[str]
) -> dict[str, Any]:
    height, width = image.size
    segments, top = [], 0
    for number, (label_id, share) in enumerate(image.shares.items()):
        area = round(share * height * width)
        segments.append(
            {
                "segment_id": number + 1, "label_id": label_id, "label": labels[label_id],
                "is_thing": True, "score": image.score, "area": area, "bbox_x": 0, "bbox_y": top,
                "bbox_w": width, "bbox_h": 1, "rle": _band(top, area, height, width),
            }
        )  # fmt: skip
        top += area
    failed = image.error is not None
    return {
        "unit_id": unit_id, "kind": "image", "position": position, "image_id": image.image_id,
        "uri": image.uri, "member": image.member, "etag": image.etag,
        "height": None if failed else height, "width": None if failed else width,
        "status": "error" if failed else "ok", "error_class": image.error,
        "error_message": f"{image.uri}: {image.error}" if failed else None,
        "num_segments": 0 if failed else len(segments),
        "coverage": None if failed else sum(image.shares.values()),
        "mean_score": image.score if segments and not failed else None,
        "segments": [] if failed else segments, "bytes_read": 10,
    }  # fmt: skip


def _band(start: int, length: int, height: int, width: int) -> str:
    """COCO's run lengths of so many pixels, column by column, from one on."""
    counts = [start, length, height * width - start - length]
    text = ""
    for number, count in enumerate(counts):
        value = count - counts[number - 2] if number > 2 else count
        while True:
            code, value = value & 31, value >> 5
            more = value != (-1 if code & 16 else 0)
            text += chr(code + (32 if more else 0) + 48)
            if not more:
                break
    return text


def published_report(table: TableStore, run_id: str) -> dict[str, Any]:
    """Reads the report of a run as other programs read it."""
    return json.loads(table.storage.read(table.file("_runs", run_id, "report.json")))
