"""The demo's corpus and model: photographs with a trained model, or drawings with a random one."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from pipeline.table import segments

_SHARDS, _IMAGES = 3, 24
_STUFF = "0,1,3,4,5,7"  # sky, building, road, pavement, tree, fence


@dataclass(frozen=True, kw_only=True)
class DemoInput:
    """What the demo segments, with which model and options."""

    description: str
    model: str
    options: tuple[str, ...]


def photographs(shared: Path, output: Path) -> DemoInput:
    """Street scenes of CamVid in tar shards, and the model that was trained on others of them."""
    with tarfile.open(shared / "data" / "camvid" / "val-0000.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        chosen = names[:: len(names) // _IMAGES][:_IMAGES]
        photos = [(name, archive.extractfile(name).read()) for name in chosen]  # type: ignore[union-attr]
    _write_shards(photos, output / "corpus")
    return DemoInput(
        description=f"{len(photos)} street photographs (CamVid) and a model trained on others",
        model=str(shared / "weights" / "maskformer-efficientnet-lite0-camvid"),
        options=("--label_ids_to_fuse", _STUFF),
    )


def drawn_input(output: Path) -> DemoInput:
    """Drawings and a small model with random weights, where no trained one is at hand."""
    _write_shards(_drawings(_IMAGES), output / "corpus")
    folder = output / "model"
    save_random_model(folder)
    return DemoInput(
        description=(
            "no trained model is at hand: drawings, and a small model with random weights, whose "
            "segments mean nothing"
        ),
        model=str(folder),
        options=("--threshold", "0", "--overlap_mask_area_threshold", "0"),
    )


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


def _write_shards(photos: Iterable[tuple[str, bytes]], folder: Path) -> None:
    folder.mkdir(parents=True)
    photos = list(photos)
    size = -(-len(photos) // _SHARDS)
    for shard in range(_SHARDS):
        with tarfile.open(folder / f"{shard:04}.tar", "w") as archive:
            for name, data in photos[shard * size : (shard + 1) * size]:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _drawings(count: int) -> Iterator[tuple[str, bytes]]:
    """Boxes and discs over a sky and a ground."""
    random = np.random.default_rng(0)
    for index in range(count):
        image = Image.new("RGB", (320, 240), tuple(random.integers(100, 255, 3).tolist()))
        draw = ImageDraw.Draw(image)
        horizon = int(random.integers(100, 180))
        draw.rectangle((0, horizon, 320, 240), tuple(random.integers(0, 120, 3).tolist()))
        for _ in range(5):
            x, y, size = (int(value) for value in random.integers((0, 40, 20), (280, 200, 80)))
            shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
            shape((x, y, x + size, y + size), tuple(random.integers(0, 255, 3).tolist()))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        yield f"drawing-{index:03}.jpg", buffer.getvalue()


def save_random_model(folder: Path, *, shortest_edge: int = 192) -> None:
    """A small Swin model whose segments mean nothing, the same each time."""
    import torch

    from maskformer import (
        MaskFormerConfig,
        MaskFormerDetrConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessor,
        MaskFormerSwinConfig,
    )

    torch.manual_seed(0)
    config = MaskFormerConfig(
        backbone_config=MaskFormerSwinConfig(
            embed_dim=24,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=MaskFormerDetrConfig(
            d_model=64, decoder_layers=2, decoder_ffn_dim=128, num_queries=12
        ),
        fpn_feature_size=64,
        mask_feature_size=64,
        num_labels=6,
    )
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    MaskFormerImageProcessor(size={"shortest_edge": shortest_edge}).save_pretrained(folder)
