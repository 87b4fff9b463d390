"""Delivery: the best checkpoint of a run as a model folder, with what people want to know of it.

Takes checkpoints and history; leaves, in the output itself, the model's files, `curves.png`, a
model card `README.md` and, last, `report.json`. Starts without torch.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.storage import Storage, join
from pipeline.training.checkpoint import TRAINING_STATE, Checkpoint, Checkpoints
from pipeline.training.curves import curves
from pipeline.training.history import read_history

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the model card says beside the metrics."""

    title: str
    labels: Sequence[str]
    things: frozenset[int]
    task: str
    dataset: str
    num_images: int
    validation: str | None
    start: str
    licence: str
    """Of the weights that training began with."""
    recipe: Mapping[str, Any]
    """Settings that differ from their defaults."""


def deliver(output: str, *, storage: Storage, best: Checkpoint, card: Card) -> list[str]:
    """Writes the model and what is beside it; the files to look at."""
    place = storage.absolute(output)
    names = sorted(name for name in best.files if name != TRAINING_STATE)
    contents = Checkpoints(output, storage=storage).contents(best, names=names)
    for name, data in contents:
        storage.write(join(place, name), data)
    history = read_history(output, storage=storage)
    buffer = io.BytesIO()
    curves(history).save(buffer, "PNG")
    storage.write(join(place, "curves.png"), buffer.getvalue())
    storage.write(join(place, "README.md"), card_text(card, best=best).encode())
    report = {
        "checkpoint": best.uri,
        "step": best.step,
        "score": best.score,
        "metrics": dict(best.metrics),
        "per_label": dict(best.per_label),
    }
    storage.write(join(place, REPORT), json.dumps(report, indent=1).encode())
    return [join(place, name) for name in (REPORT, "README.md", "curves.png")]


def card_text(card: Card, *, best: Checkpoint) -> str:
    """The model card, as the hub reads it."""
    front = ["---", "library_name: transformers", "pipeline_tag: image-segmentation"]
    front += ["tags: [maskformer]", "---"]
    labels = [
        f"{name} (thing)" if label in card.things else name
        for label, name in enumerate(card.labels)
    ]
    recipe = [f"    {name}: {json.dumps(value)}" for name, value in card.recipe.items()]
    return "\n".join(
        [
            *front,
            f"# {card.title}",
            "",
            f"A MaskFormer for {card.task} segmentation with {len(labels)} labels.",
            "",
            "    from maskformer import MaskFormerForInstanceSegmentation",
            '    model = MaskFormerForInstanceSegmentation.from_pretrained("THIS FOLDER")',
            "",
            "## Metrics",
            "",
            *_metrics(card, best=best),
            "",
            "## Training",
            "",
            f"- began with: {card.start}",
            f"- licence of these weights: {card.licence}",
            f"- data: {card.num_images:,} images of {card.dataset}",
            f"- steps: {best.step:,}; the curve is in `curves.png`",
            "",
            "Settings, where they are not the defaults:",
            "",
            *recipe,
            "",
            "## Labels",
            "",
            ", ".join(labels),
            "",
        ]
    )


def _metrics(card: Card, *, best: Checkpoint) -> list[str]:
    if card.validation is None:
        return ["Not evaluated."]
    lines = [f"On {card.validation}, in per cent.", "", "| metric | |", "|---|---|"]
    lines += [f"| {name} | {_per_cent(value)} |" for name, value in best.metrics.items()]
    lines += ["", "| label | |", "|---|---|"]
    return lines + [f"| {name} | {_per_cent(value)} |" for name, value in best.per_label.items()]


def _per_cent(value: float) -> str:
    return "none" if value != value else f"{100 * value:.1f}"
