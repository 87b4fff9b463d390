"""Tables over real photographs of all sources, with all that trips exporters and importers."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from as_files import encode_image
from corpora import parquet, put, tar
from drawn_tables import commit
from PIL import Image
from specs import panoptic_spec

from maskformer import encode_segments
from pipeline.corpora.decoding import ImageError, image_size
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.exchange.exporting.run import export
from pipeline.exchange.settings import ExportSettings
from pipeline.planning.planner import Plan, Unit, UnitSettings, plan_corpus, settle_plan
from pipeline.runtime.exit_codes import ExitCode
from pipeline.storage import Storage
from pipeline.table.store import TableStore

LABELS = ("sky", "car", 'door, "open"', "Straße", "tree")
SPEC = panoptic_spec(*LABELS, label_ids_to_fuse=(0, 3))
READING = ReadSettings(key_column="key")
READERS = Path(__file__).parents[2] / "readers"
PYTHON = Path(sys.executable).parents[1] / "readers" / "bin" / "python"


def photo(
    seed: int, kind: str = "JPEG", *, size: tuple[int, int] = (30, 44), orientation: int = 1
) -> bytes:
    """A photograph of (height, width) as stored; EXIF turns it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (4, 5, 3), np.uint8))
    picture = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if orientation != 1 else {}
    return encode_image(picture, kind, **options)


def corpus() -> dict[str, bytes]:
    """Photographs of every kind of source."""
    return {
        "a.jpg": photo(1),
        "a.png": photo(2, "PNG", size=(25, 31)),
        "town/Straße, alt.jpg": photo(3),
        "turned.jpg": photo(4, orientation=6),
        "turned.png": photo(5, "PNG", orientation=8),
        "empty.jpg": photo(6),
        "plain.jpg": photo(12),
        "broken.jpg": b"no image at all",
        "shard.tar": tar(
            [("one.jpg", photo(7)), ("22.05.jpg", photo(8)), ("deep/pair.png", photo(9, "PNG"))]
        ),
        "rows.parquet": parquet(
            {"image": [photo(10), photo(11, "PNG")], "key": ["key/0", "../climbs"]}
        ),
    }


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A table and what it holds."""

    table: TableStore
    truth: Mapping[str, list[list[Any]]]
    """By image_id without error: label, run lengths and area of each segment, sorted."""
    sizes: Mapping[str, tuple[int, int]]


def draw(
    folder: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    storage: Storage | None = None,
    table: str | None = None,
    corpus_uri: str | None = None,
) -> Drawn:
    """Labels a corpus with drawn segments, as runs do: plan, units, commits."""
    storage = storage or Storage()
    if corpus_uri is None:
        corpus_uri = str(folder / "photos")
        put(folder / "photos", corpus() if files is None else files)
    store = TableStore(table or str(folder / "table"), storage)
    store.create(SPEC)

    def plan() -> Plan:
        return plan_corpus(
            str(corpus_uri), table=store, spec=SPEC, reading=READING,
            units=UnitSettings(unit_images=3),
        )  # fmt: skip

    truth: dict[str, list[list[Any]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    settled = settle_plan(plan(), plan_again=plan, table=store, run_id="night-1")
    for unit in settled.units:
        for row in label_unit(store, unit, storage=storage):
            if row["status"] == "ok":
                sizes[row["image_id"]] = (row["height"], row["width"])
                truth[row["image_id"]] = sorted(
                    [each["label"], each["rle"], each["area"]] for each in row["segments"]
                )
    return Drawn(table=store, truth=truth, sizes=sizes)


def label_unit(store: TableStore, unit: Unit, *, storage: Storage) -> list[dict[str, Any]]:
    """Draws segments for the images of a unit, and commits them; gives the rows."""
    images = [
        image
        for source in unit.sources
        for image in read_source(source, storage=storage, settings=READING)
    ]
    rows = [
        _row(image, unit_id=unit.unit_id, position=position)
        for position, image in enumerate(images)
    ]
    commit(store, unit.unit_id, rows, spec=SPEC)
    return rows


def _row(image: EncodedImage, *, unit_id: str, position: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "unit_id": unit_id, "kind": "image", "position": position, "image_id": image.image_id,
        "uri": image.uri, "member": image.member, "etag": image.etag, "num_segments": 0,
        "bytes_read": len(image.data or b""), "segments": [], "coverage": None,
        "mean_score": None, "status": "ok",
    }  # fmt: skip
    try:
        height, width = image_size(image.data or b"", name=image.name, max_pixels=10**7)
    except ImageError as error:
        said = {"error_class": error.error_class, "error_message": error.message}
        return row | {"status": "error", **said}
    ids = _ids(height, width, seed=len(image.image_id) + 7 * position)
    if "empty" in image.image_id:
        ids[:] = 0
    elif "plain" in image.image_id:
        ids = _plain_ids(height, width)
    shapes = encode_segments(ids)
    segments = [
        {
            "segment_id": number, "label_id": label, "label": LABELS[label],
            "is_thing": label not in (0, 3), "score": round(0.95 - number / 16, 4), "area": area,
            "bbox_x": x, "bbox_y": y, "bbox_w": w, "bbox_h": h, "rle": rle,
        }
        for number, (area, (x, y, w, h), rle) in enumerate(
            zip(shapes.areas.tolist(), shapes.boxes_xywh.tolist(), shapes.rles, strict=True), 1
        )
        for label in [(number - 1) % len(LABELS)]
    ]  # fmt: skip
    return row | {
        "height": height, "width": width, "num_segments": len(segments), "segments": segments,
        "coverage": float((ids > 0).mean()),
        "mean_score": sum(s["score"] for s in segments) / len(segments) if segments else None,
    }  # fmt: skip


def _plain_ids(height: int, width: int) -> np.ndarray:
    """Shapes of one part without holes: a disc, an L, a line, a point, two pixels by a corner."""
    ids = np.zeros((height, width), np.int32)
    rows, columns = np.mgrid[:height, :width]
    ids[(rows - 9) ** 2 + (columns - 9) ** 2 < 50] = 1
    ids[2:14, 20:24], ids[10:14, 20:36] = 2, 2
    ids[20, 3:30] = 3
    ids[24, 40] = 4
    ids[26, 10], ids[27, 11] = 5, 5
    return ids


def _ids(height: int, width: int, *, seed: int) -> np.ndarray:
    """Segments in several parts and with holes, and void between them."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 8, (height // 4 + 1, width // 4 + 1))
    ids = np.kron(coarse, np.ones((4, 4), int))[:height, :width].astype(np.int32)
    ids[0, 0] = 1
    present = np.unique(ids[ids > 0])
    return np.where(ids > 0, np.searchsorted(present, ids) + 1, 0).astype(np.int32)


def exported(
    drawn: Drawn,
    output: Path | str,
    format: str,
    *,
    reading: ReadSettings = READING,
    **settings: Any,
) -> ExitCode:
    """Exports a drawn table."""
    return export(
        ExportSettings(table=drawn.table.uri, output=str(output), format=format, **settings),  # type: ignore[arg-type]
        storage=drawn.table.storage,
        reading=reading,
    )


def read_by(library: str, *words: str) -> Any:
    """Reads with a library of another environment, by a script of `tests/readers`."""
    if not PYTHON.exists():
        pytest.skip("the outside readers are not installed; see `make readers`")
    process = subprocess.run(
        [str(PYTHON), str(READERS / f"through_{library}.py"), *words],
        capture_output=True, text=True, check=False, timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def files_below(folder: Path) -> dict[str, bytes]:
    """All files of an export with their bytes; of a link its target."""
    return {
        str(path.relative_to(folder)): (
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


def sure_masks(segments: Iterable[list[Any]]) -> list[list[Any]]:
    """Labels and run lengths, without areas."""
    return sorted(each[:2] for each in segments)
