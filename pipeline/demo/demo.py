"""The demo: draws scenes, labels them with the sample model, judges the rows and draws them.

Runs the functions behind `maskformer label` and `maskformer evaluate` in processes of their own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

import pipeline
from pipeline.demo.scenes.shards import write_shards
from pipeline.table.drawing import contact_sheet, photograph_beside_overlay
from pipeline.table.store import images, segments

SAMPLE_MODEL = Path(__file__).parent / "sample_model"
"""A small MaskFormer, trained on other scenes by `configs/finetune/sample.yaml`."""

_IMAGES, _SHARD_IMAGES, _SEED = 48, 16, 3
_ON_SHEET = 12
_PICTURED = "scenes-0001.tar/scene-000016"  # has most labels
_OURS = ("corpus", "table", "evaluation", "contact_sheet.png", "picture.jpg")


def run_demo(folder: Path) -> int:
    """Writes corpus, table, evaluation and two pictures; gives the exit code of the commands.

    Raises:
        ValueError: the folder holds something else than a demo.
    """
    _clear(folder)
    corpus, table, evaluation = (str(folder / name) for name in _OURS[:3])
    write_corpus(Path(corpus))
    model = str(SAMPLE_MODEL)
    code = _run("label", "--corpus", corpus, "--table", table, "--model", model)
    if code:
        return code
    print(f"\nthe most frequent labels:\n\n{most_frequent_labels(table, count=10)}\n")
    code = _run(
        "evaluate", "--table", table, "--dataset", corpus, "--task", "panoptic",
        "--output", evaluation,
    )  # fmt: skip
    ids = images(table).to_table(columns=["image_id"])["image_id"].to_pylist()
    sheet = folder / "contact_sheet.png"
    contact_sheet(table, ids[:: max(1, len(ids) // _ON_SHEET)][:_ON_SHEET]).save(sheet)
    picture = folder / "picture.jpg"
    photograph_beside_overlay(table, _PICTURED, height=400).save(picture, quality=90)
    print(f"\nlook at {sheet} and {picture}")
    return code


def write_corpus(folder: Path) -> None:
    """Writes tar shards of scenes that the sample model has not seen, with their truth."""
    write_shards(str(folder), num_images=_IMAGES, seed=_SEED, shard_images=_SHARD_IMAGES)


def most_frequent_labels(table: str, *, count: int) -> str:
    """Lists the labels with the most segments: label, segments, share of all pixels, mean score."""
    rows = segments(table).to_table(columns=["label", "area", "score"])
    counted = (
        rows.group_by("label")
        .aggregate([("area", "count"), ("area", "sum"), ("score", "mean")])
        .sort_by([("area_count", "descending"), ("label", "ascending")])
        .slice(0, count)
    )
    total = pa.compute.sum(rows["area"]).as_py() or 1
    lines = [f"{'label':<16}{'segments':>9}{'area':>8}{'score':>8}"]
    for row in counted.to_pylist():
        share = row["area_sum"] / total
        lines.append(
            f"{row['label']:<16}{row['area_count']:>9,}{share:>8.1%}{row['score_mean']:>8.2f}"
        )
    return "\n".join(lines)


def _clear(folder: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - {*_OURS}
    ):
        raise ValueError(f"--output must be a folder for the demo alone; {folder} holds more")
    shutil.rmtree(folder, ignore_errors=True)


def _run(*words: str) -> int:
    print("$ maskformer", *words, flush=True)
    # The parent of the package, so that a checkout works without being installed.
    root = str(Path(pipeline.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
