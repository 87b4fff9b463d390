"""Conversion: weights of any dialect to a folder in transformers' format.

Takes what `weights.py` was asked on the command line. What was written loads in transformers, where
that has the architecture, and gives what the weights gave before.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from maskformer.checkpoints.checkpoint import LoadReport, fit_weights, read_checkpoint
from maskformer.checkpoints.folder import check_folder, config_file, read_config
from maskformer.configuration import CONFIG_NAME, MaskFormerConfig
from maskformer.hub import resolve_folder
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.model import MaskFormerForInstanceSegmentation
from maskformer.network.initialisation import WithoutDraws
from maskformer.zoo import MODELS

_PROCESSOR = "preprocessor_config.json"
_USUAL_SIZE = (480, 640)

# What building and calling a model raises where numbers of its configuration do not go together.
_WRONG_KINDS = (
    RuntimeError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Described:
    """The configuration and image processor of a file of weights; None where beside the file."""

    config: MaskFormerConfig | None = None
    processor: MaskFormerImageProcessor | None = None


def convert(
    source: str,
    folder: str,
    *,
    described: Described,
    dtype: str = "auto",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Writes configuration, weights, in their own type or as `dtype` names it, and image processor.

    Where no image processor is described and none lies beside the source, none is made up.
    """
    source = resolve_folder(source)
    model = MaskFormerForInstanceSegmentation.from_pretrained(
        source,
        config=described.config,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )
    model.save_pretrained(folder)
    beside = config_file(source).with_name(_PROCESSOR)
    if described.processor is not None:
        described.processor.save_pretrained(folder)
    elif beside.is_file() and beside.absolute() != Path(folder, _PROCESSOR).absolute():
        shutil.copyfile(beside, Path(folder, _PROCESSOR))
    return model.load_report


def describe(*, zoo_name: str | None, config_file: str | None) -> Described:
    """Reads them from an entry of the zoo, or from a configuration's file."""
    if zoo_name is not None:
        if zoo_name not in MODELS:
            near = get_close_matches(zoo_name, MODELS, n=1, cutoff=0)
            raise ValueError(
                f"--name must be in the zoo, got {zoo_name!r} (near: {', '.join(near)}); "
                "`maskformer zoo` lists it"
            )
        entry = MODELS[zoo_name]
        return Described(
            config=MaskFormerConfig.from_dict(entry.config),
            processor=MaskFormerImageProcessor.from_dict(entry.image_processor),
        )
    if config_file is not None:
        return Described(config=MaskFormerConfig.from_json_file(config_file))
    return Described()


def check_model(location: str) -> None:
    """Raises ValueError where weights, configuration and image processor are not of one model."""
    location = resolve_folder(location)
    check_folder(location)
    config = read_config(location)
    try:
        with torch.device("meta"), WithoutDraws():
            model = MaskFormerForInstanceSegmentation(config)
    except _WRONG_KINDS as error:
        raise ValueError(
            f"{config_file(location)} must describe a model, and none can be built of it: {error!r}"
        ) from error
    fit_weights(read_checkpoint(location), model=model, source=location)
    beside = config_file(location).with_name(_PROCESSOR)
    if beside.is_file():
        processor = MaskFormerImageProcessor.from_pretrained(beside.parent)
        padded = processor.pad_size
        size = (
            processor.padded_size(processor.resized_size(_USUAL_SIZE))
            if padded is None
            else (padded["height"], padded["width"])
        )
        check_forward(model.eval(), size=size)


def check_forward(
    model: MaskFormerForInstanceSegmentation, *, size: tuple[int, int], num_images: int = 1
) -> None:
    """Raises ValueError where a model on the meta device cannot take images of this size.

    Args:
        size: (height, width) of the model's inputs.
    """
    try:
        with torch.device("meta"):
            model(torch.empty(num_images, 3, *size), output_auxiliary_logits=model.training)
    except (ValueError, *_WRONG_KINDS) as error:
        raise ValueError(
            f"the model must take {num_images} RGB images of {size[0]} x {size[1]} pixels, and its "
            f"parts do not fit them: {' '.join(str(error).split())}; see backbone_config in "
            f"{CONFIG_NAME}, and size, size_divisor and pad_size of the image processor"
        ) from error
