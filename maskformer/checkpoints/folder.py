"""Model folders: which files hold a model, and whether they can be one. Starts without torch.

Takes a folder or a file that `hub.py` found; `checkpoint.py` reads the tensors of its files.
"""

import json
from pathlib import Path
from typing import Any

from maskformer.checkpoints.files import stored_tensors
from maskformer.configuration import CONFIG_NAME, MaskFormerConfig, check_label_ids

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
SUFFIXES = (".safetensors", ".pkl", ".bin", ".pth", ".pt")
"""Suffixes of files that hold weights, whatever their names are."""


def check_folder(folder: str) -> None:
    """Raises ValueError, in one line, for a folder or a file that cannot be a model.

    Looks at configuration, names and sizes: it reads a few kilobytes, not the weights.
    """
    if not Path(folder).exists():
        raise ValueError(f"a model folder must exist, got {folder!r}")
    config = read_config(folder)
    try:
        check_label_ids(config.id2label or {})
    except ValueError as error:
        raise ValueError(f"{config_file(folder)}: {error}") from error
    for path in weight_files(folder):
        stored_tensors(path)


def config_file(location: str) -> Path:
    """The configuration in a folder, or beside a file of weights."""
    place = Path(location)
    return (place.parent if place.is_file() else place) / CONFIG_NAME


def read_config(location: str, **overrides: Any) -> MaskFormerConfig:
    """The configuration of a folder or a file of weights, with some of its fields replaced."""
    path = config_file(location)
    if path.is_file():
        return MaskFormerConfig.from_json_file(path, **overrides)
    if Path(location).is_file():
        raise ValueError(
            f"{location} needs {CONFIG_NAME} beside it, or a configuration by itself (config)"
        )
    raise ValueError(f"a model folder must hold {CONFIG_NAME}, {location} does not")


def weight_files(location: str) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before many."""
    place = Path(location)
    if place.is_file():
        return [place]
    for name in (SAFETENSORS, PICKLE):
        whole, index = place / name, place / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
    others = [path for path in sorted(place.iterdir()) if path.suffix in SUFFIXES]
    if len(others) == 1:
        return others
    found = f"but {', '.join(path.name for path in others)}" if others else "nor any other"
    raise ValueError(
        f"a model folder must hold its weights as {SAFETENSORS} or {PICKLE}, their index, or one "
        f"other file; {location} has none of these, {found}"
    )


def _shards(index: Path) -> list[Path]:
    try:
        shards = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} must map weights to files (weight_map): {error!r}") from error
    paths = [index.parent / name for name in sorted(shards)]
    outside = [path.name for path in paths if path.parent != index.parent]
    missing = [path.name for path in paths if not path.is_file()]
    if outside or missing or not paths:
        wrong = outside or missing or ["no file at all"]
        raise ValueError(f"{index} must name files beside it, it names {', '.join(wrong)}")
    return paths
