"""The demo: scenes that code draws, the model that knows them, and what is shown of the table."""

from pathlib import Path

import pyarrow as pa

from pipeline.demo.scenes.shards import write_shards
from pipeline.table.store import segments

SAMPLE_MODEL = Path(__file__).parent / "sample_model"
"""A small MaskFormer, trained on other scenes by `configs/finetune/sample.yaml`."""

_IMAGES, _SHARD_IMAGES, _SEED = 48, 16, 3


def write_corpus(folder: Path) -> None:
    """Tar shards of scenes, with the truth beside each, that the sample model has not seen."""
    write_shards(str(folder), num_images=_IMAGES, seed=_SEED, shard_images=_SHARD_IMAGES)


def most_frequent_labels(table: str, *, count: int) -> str:
    """The labels with the most segments, as text: label, segments, share of all pixels, score."""
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
