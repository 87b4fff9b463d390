"""Starting: from `--model` to a model that is ready to learn the labels of the data.

The driver reads files, once and without torch; each worker builds the same model of them, so that
no node needs files of its own. A trained model keeps what it knows of labels with the same names;
of a backbone's weights, everything behind the backbone is fresh.
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

if TYPE_CHECKING:
    from maskformer import MaskFormerForInstanceSegmentation


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """What training begins with."""

    model: str | None = None
    """A trained MaskFormer: a folder, a name of the zoo or the hub. With `architecture` only the
    weights of its backbone: ImageNet's, say, as a file or a name of the hub; None for none."""
    architecture: str | dict[str, Any] | None = None
    """The MaskFormer that is built where `model` is no whole one: a name of the zoo, a config.json,
    or its fields, as {backbone_config: {...}, decoder_config: {...}}."""
    image_processor: dict[str, Any] | None = None
    """Settings of preprocessor_config.json that differ from the model's: {image_mean: [...]}."""
    licence: str | None = None
    """Of the weights that training begins with, for the model card."""

    def __post_init__(self) -> None:
        if self.model is None and self.architecture is None:
            raise ValueError(
                "--model must name what to begin with, or --architecture what to build afresh"
            )


@dataclass(frozen=True, kw_only=True)
class Start:
    """All that a worker needs to build the model; travels by value."""

    name: str
    """What it was made of, for people."""
    licence: str
    config: dict[str, Any]
    is_whole: bool
    """Whether the files are a MaskFormer's; else they are its backbone's, or there are none."""
    files: Mapping[str, bytes]
    """Files of weights by name."""
    processor: MaskFormerImageProcessor
    labels: tuple[str, ...]


def read_start(settings: StartSettings, *, labels: Sequence[str]) -> Start:
    """Reads configuration and weights.

    Raises:
        ValueError: they are not there, cut or no model, or labels share a name.
    """
    doubled = sorted({label for label in labels if labels.count(label) > 1})
    if doubled:
        raise ValueError(
            "labels must each have a name of their own, for a model keeps what it knows by name; "
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
        processor=_processor(settings, location=location if is_whole else None, labels=labels),
        labels=tuple(labels),
    )


def build_model(start: Start, *, seed: int) -> "MaskFormerForInstanceSegmentation":
    """The model, in float32 on the CPU; what is fresh in it follows from the seed.

    Raises:
        ValueError: weights and configuration are not of one model.
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
    if start.is_whole:
        config.save_pretrained(folder)
        return MaskFormerForInstanceSegmentation.from_pretrained(folder, labels=list(start.labels))
    named = MaskFormerConfig.from_dict(start.config, id2label=dict(enumerate(start.labels)))
    model = MaskFormerForInstanceSegmentation(named)
    if start.files:
        load_backbone(model, folder)
    return model


def _architecture(given: str | dict[str, Any] | None) -> MaskFormerConfig:
    if isinstance(given, str) and given in MODELS:
        return MODELS[given].build_config()
    if isinstance(given, str):
        if not Path(given).is_file():
            raise ValueError(
                f"--architecture must be a name of the zoo (python -m maskformer.zoo), a "
                f"config.json or its fields, got {given!r}"
            )
        return MaskFormerConfig.from_json_file(given)
    values = dict(given or {})
    try:
        return MaskFormerConfig(**values)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"--architecture: {error}") from error


def _processor(
    settings: StartSettings, *, location: str | None, labels: Sequence[str]
) -> MaskFormerImageProcessor:
    stored: dict[str, Any] = {}
    entry = MODELS.get(settings.architecture) if isinstance(settings.architecture, str) else None
    if entry is not None:
        stored = entry.build_image_processor().to_dict()
    elif location is not None:
        try:
            stored = MaskFormerImageProcessor.from_pretrained(
                config_file(location).parent
            ).to_dict()
        except OSError as error:
            raise ValueError(str(error)) from error
    # Maps come as ids of labels, whatever the files of the data that was learnt before said.
    changes = {"do_reduce_labels": False, "num_labels": len(labels)}
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
