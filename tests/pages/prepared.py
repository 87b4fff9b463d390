"""What the commands of all pages work on: photographs, a model, labelled data and tables."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from page_blocks import ROOT
from PIL import Image

from pipeline.cli.__main__ import main
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.scene import draw_scene
from pipeline.demo.scenes.shards import write_shards
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.saving import save
from pipeline.storage import Storage
from pipeline.table.store import TableStore

NUM_PHOTOS = 6
SIZE = (96, 128)
LINKED = ("configs", "jobs", "maskformer", "pipeline", "tests", "Makefile", ".ci")
"""What a command finds below the folder of a checkout."""
REVIEWED = ("segments", "TABLE", "demo/table")
"""Names of the same table as `labels`, where three images are accepted."""
OTHERS = ("stricter", "labels-2", "segments-2")
"""Names of a table as of another model: it lacks a segment of each image."""
CORPORA = ("demo/corpus", "scans")
DATA = ("OLD", "data/train", "data/val", "train", "val")
"""Names of a small data set of drawn scenes."""


def run_command(words: list[str], folder: Path) -> None:
    """Runs `maskformer` with words in a process of its own, as from a terminal.

    Raises:
        AssertionError: its exit code is not 0.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"maskformer {' '.join(words)}\n{done.stdout}{done.stderr}"


def prepare(folder: Path, *, label: list[str]) -> None:
    """Fills a folder.

    Args:
        label: the words of the command that labels `photos` into `labels`.
    """
    (folder / "photos/town").mkdir(parents=True)
    for number in range(NUM_PHOTOS):
        pixels = np.ascontiguousarray(draw_scene(number, seed=5, size=SIZE).pixels)
        Image.fromarray(pixels).save(folder / f"photos/town/{number}.jpg")
    run_command(label, folder)
    for name in (*REVIEWED, *OTHERS):
        shutil.copytree(folder / "labels", folder / name)
    for name in REVIEWED:
        _accept(str(folder / name), image_ids=["town/0.jpg", "town/1.jpg", "town/2.jpg"])
    for name in OTHERS:
        _without_first_segments(folder / name)
    for name in CORPORA:
        shutil.copytree(folder / "photos", folder / name)
    write_shards(str(folder / DATA[0]), num_images=4, seed=1, sizes=[SIZE])
    for name in DATA[1:]:
        shutil.copytree(folder / DATA[0], folder / name)
    assert main(["export", str(folder / "segments"), str(folder / "cvat"), "--format", "cvat"]) == 0
    (folder / "from-cvat").mkdir()
    for name in ("from-cvat/annotations.xml", "corrected.xml"):
        shutil.copy(folder / "cvat/annotations.xml", folder / name)
    (folder / "model").symlink_to(SAMPLE_MODEL)
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)


def _accept(table: str, *, image_ids: list[str]) -> None:
    log = ReviewLog.of_table(table, reviews=None, storage=Storage())
    for image_id in image_ids:
        state = model_state(TableStore(table, Storage()), image_id)
        save(
            log,
            state.revision(
                status="accepted", reviewer="anna", created_at=datetime.now(UTC), tool="a test"
            ),
        )


def _without_first_segments(table: Path) -> None:
    for file in (table / "segments").glob("*.parquet"):
        rows = pq.read_table(file)
        pq.write_table(rows.filter(pc.greater(rows["segment_id"], 1)), file)
