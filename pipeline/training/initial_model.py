"""Builds the model that training begins with, for the labels of the data.

The driver reads the files of `--model` once and without torch; each worker builds the same model
from them, so that no node needs the files. A trained model keeps its weights for labels with the
same names; on a backbone's weights, everything behind the backbone is new.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskformer import (
    MODELS,
    MaskFormerConfig,
    MaskFormerImageProcessor,
    check_folder,
    config_file,
    resolve_folder,
    weight_files,
)
from pipeline.datasets.label_values import LabelValues
from pipeline.training.settings import StartSettings

if TYPE_CHECKING:
    from maskformer import MaskFormerForInstanceSegmentation


@dataclass(frozen=True, kw_only=True)
class Start:
    """All that a worker needs to build the model; travels by value."""

    name: str
    """The name of the weights, for people."""
    licence: str
    config: dict[str, Any]
    is_whole: bool
    """True for files of a MaskFormer; False for those of a backbone, or for none."""
    files: Mapping[str, bytes]
    """Files of weights by name."""
    processor: MaskFormerImageProcessor
    labels: tuple[str, ...]
    things: frozenset[int] | None
    """Ids of labels that are things; None where the data does not say."""

    @property
    def num_queries(self) -> int:
        """Returns the largest number of masks that the model finds in an image."""
        return MaskFormerConfig.from_dict(self.config).decoder_config.num_queries


def read_start(
    settings: StartSettings,
    *,
    labels: Sequence[str],
    things: frozenset[int] | None = None,
    values: LabelValues | None = None,
) -> Start:
    """Reads configuration and weights.

    Args:
        things: ids of labels that are things; None where the data does not say.
        values: the rule by which the data's label maps are read; None without label maps.

    Raises:
        ValueError: the files are missing, truncated or no model, or two labels have one name.
    """
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise ValueError(
            "labels must each have a name of their own, by which a model keeps its weights; "
            f"got more than once: {', '.join(doubled)}; rename them in the data, or give --labels"
        )
    location = None if settings.model is None else resolve_folder(settings.model)
    is_whole = settings.architecture is None
    if is_whole:
        assert location is not None
        if not config_file(location).is_file():
            raise ValueError(
                f"--model {settings.model} has no config.json, so that it is no MaskFormer; if it "
                "holds a backbone's weights, say by --architecture what is built on them"
            )
        check_folder(location)
        config = MaskFormerConfig.from_json_file(config_file(location))
    else:
        config = _architecture(settings.architecture)
    paths = [] if location is None else weight_files(location)
    return Start(
        name=str(settings.model or "fresh weights"),
        licence=settings.licence or _licence(settings),
        config=config.to_dict(),
        is_whole=is_whole,
        files={path.name: path.read_bytes() for path in paths},
        processor=_processor(
            settings, location=location if is_whole else None, labels=labels, values=values
        ),
        labels=tuple(labels),
        things=things,
    )


def reduced_labels(settings: StartSettings) -> tuple[str, ...] | None:
    """Returns the labels of a trained model that ignores 0 in label maps (do_reduce_labels).

    None for other models, and for a backbone.

    Raises:
        ValueError: the model is missing.
    """
    if isinstance(settings.architecture, str) and settings.architecture in MODELS:
        entry = MODELS[settings.architecture]
        is_reduced = entry.image_processor["do_reduce_labels"]
        return entry.dataset.labels if is_reduced else None
    if settings.architecture is not None or settings.model is None:
        return None
    location = config_file(resolve_folder(settings.model))
    if not location.is_file():
        return None  # `read_start` says so
    if not MaskFormerImageProcessor.from_pretrained(location.parent).do_reduce_labels:
        return None
    names = MaskFormerConfig.from_json_file(location).id2label or {}
    return tuple(names[label] for label in sorted(names))


def build_model(start: Start, *, seed: int) -> "MaskFormerForInstanceSegmentation":
    """Builds the model, in float32 on the CPU; new weights follow from the seed.

    Raises:
        ValueError: weights and configuration do not fit.
    """
    import torch

    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in start.files.items():
            Path(folder, name).write_bytes(data)
        try:
            return _built(start, folder=folder)
        except ValueError as error:
            raise ValueError(str(error).replace(folder, start.name)) from error


def _built(start: Start, *, folder: str) -> "MaskFormerForInstanceSegmentation":
    from maskformer import MaskFormerForInstanceSegmentation, load_backbone

    config = MaskFormerConfig.from_dict(start.config)
    things = None if start.things is None else sorted(start.things)
    if start.is_whole:
        config.save_pretrained(folder)
        model = MaskFormerForInstanceSegmentation.from_pretrained(folder, labels=list(start.labels))
        model.config.things = things
        return model
    named = MaskFormerConfig.from_dict(
        start.config, id2label=dict(enumerate(start.labels)), things=things
    )
    model = MaskFormerForInstanceSegmentation(named)
    if start.files:
        load_backbone(model, folder)
    return model


def _architecture(given: str | dict[str, Any] | None) -> MaskFormerConfig:
    if isinstance(given, str) and given in MODELS:
        return MaskFormerConfig.from_pretrained(given)
    if isinstance(given, str):
        if not Path(given).is_file():
            raise ValueError(
                f"--architecture must be a name of the zoo (maskformer zoo), a "
                f"config.json or its fields, got {given!r}"
            )
        return MaskFormerConfig.from_json_file(given)
    values = dict(given or {})
    try:
        return MaskFormerConfig(**values)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"--architecture: {error}") from error


def _processor(
    settings: StartSettings,
    *,
    location: str | None,
    labels: Sequence[str],
    values: LabelValues | None,
) -> MaskFormerImageProcessor:
    stored: dict[str, Any] = {}
    entry = MODELS.get(settings.architecture) if isinstance(settings.architecture, str) else None
    if entry is not None:
        stored = entry.image_processor
    elif location is not None:
        try:
            stored = MaskFormerImageProcessor.from_pretrained(
                config_file(location).parent
            ).to_dict()
        except OSError as error:
            raise ValueError(str(error)) from error
    # The new model records the rule by which this data's maps are read, whatever the old one's
    # files said, so that an evaluation reads the maps by the same rule.
    changes: dict[str, Any] = {"do_reduce_labels": False, "num_labels": len(labels)}
    if values is not None and values.reduce_labels:
        changes |= {"do_reduce_labels": True, "ignore_index": values.ignore_index}
    try:
        return MaskFormerImageProcessor.from_dict(
            stored, **{**changes, **(settings.image_processor or {})}
        )
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"--image_processor: {error}") from error


def _licence(settings: StartSettings) -> str:
    entry = MODELS.get(settings.model or "")
    if settings.model is None:
        return "none: fresh weights"
    return entry.licence if entry is not None else "not said (--licence)"
