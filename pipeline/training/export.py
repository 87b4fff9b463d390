"""Exports the best checkpoint of a run as a model folder.

Writes the model's files, `curves.png`, a model card `README.md` and, last, `report.json` to the
output. Starts without torch.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.wording import count
from pipeline.storage import Storage, join
from pipeline.training.checkpoint import TRAINING_STATE, Checkpoint, Checkpoints
from pipeline.training.curves import curves
from pipeline.training.history import read_history

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of the model card beside the metrics."""

    title: str
    labels: Sequence[str]
    things: frozenset[int]
    task: str
    dataset: str
    num_images: int
    validation: str | None
    start: str
    licence: str
    """The licence of the weights that training began with."""
    recipe: Mapping[str, Any]
    """Settings that differ from their defaults."""
    is_in_transformers: bool
    """Whether transformers can load the model."""


def export_model(output: str, *, storage: Storage, best: Checkpoint, card: ModelCard) -> list[str]:
    """Writes the model, its card, curves and report; returns the URIs of the last three."""
    folder = storage.absolute(output)
    checkpoints = Checkpoints(output, storage=storage)
    for name in sorted({*best.files} - {TRAINING_STATE}):
        storage.write(join(folder, name), checkpoints.read(best, name))
    history = read_history(output, storage=storage)
    buffer = io.BytesIO()
    curves(history).save(buffer, "PNG")
    storage.write(join(folder, "curves.png"), buffer.getvalue())
    storage.write(join(folder, "README.md"), card_text(card, best=best).encode())
    report = {
        "checkpoint": best.uri,
        "step": best.step,
        "score": best.score,
        "metrics": dict(best.metrics),
        "per_label": dict(best.per_label),
    }
    storage.write(join(folder, REPORT), json.dumps(report, indent=1).encode())
    return [join(folder, name) for name in (REPORT, "README.md", "curves.png")]


def card_text(card: ModelCard, *, best: Checkpoint) -> str:
    """Returns the model card in the hub's format."""
    library = ["library_name: transformers"] if card.is_in_transformers else []
    front = ["---", *library, "pipeline_tag: image-segmentation", "tags: [maskformer]", "---"]
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
            f"A MaskFormer for {card.task} segmentation with {count(len(labels), 'label')}.",
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
            f"- data: {count(card.num_images, 'image')} of {card.dataset}",
            f"- steps: {best.step:,}; the curve is in `curves.png`",
            "",
            "Settings that differ from the defaults:",
            "",
            *recipe,
            "",
            "## Labels",
            "",
            ", ".join(labels),
            "",
        ]
    )


def _metrics(card: ModelCard, *, best: Checkpoint) -> list[str]:
    if card.validation is None:
        return ["Not evaluated."]
    lines = [f"On {card.validation}, in per cent.", "", "| metric | |", "|---|---|"]
    lines += [f"| {name} | {_per_cent(value)} |" for name, value in best.metrics.items()]
    lines += ["", "| label | |", "|---|---|"]
    return lines + [f"| {name} | {_per_cent(value)} |" for name, value in best.per_label.items()]


def _per_cent(value: float) -> str:
    return "none" if value != value else f"{100 * value:.1f}"
