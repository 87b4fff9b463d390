"""Model folders: where a model's files are, and whether they can be a model, before torch starts.

Takes a folder or a name on the hub; gives a folder on this machine. `checkpoint.py` reads the
tensors. The driver of a job asks here before it starts any worker.
"""

import json
import struct
from pathlib import Path
from typing import Any

from maskformer.configuration import CONFIG_NAME, MaskFormerConfig

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

_HUB = "hf://"
_HUB_FILES = [CONFIG_NAME, "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]
_HUB_PICKLES = [PICKLE, f"{PICKLE}.index.json", "pytorch_model-*.bin"]


def resolve_folder(name_or_folder: str) -> str:
    """The folder itself, or where the hub's model (`org/name`, `hf://org/name`) is fetched to.

    A folder on this machine comes before a model of the same name. Only what a model is made of is
    fetched, pickled weights only where there are no safetensors.
    """
    if name_or_folder and Path(name_or_folder).is_dir():
        return str(name_or_folder)
    name = name_or_folder.removeprefix(_HUB).strip("/")
    if name.count("/") > 1 or not name or name[0] in ".~" or name_or_folder.startswith("/"):
        raise ValueError(
            f"a model must be a folder or a hub id such as org/name, got {name_or_folder!r}, and "
            "there is no such folder"
        )
    return _fetch(name)


def _fetch(name: str) -> str:
    # Here, not above: a run on a local folder needs no hub.
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, allow_patterns=_HUB_FILES)
        if not any(Path(folder).glob("*.safetensors")):
            folder = snapshot_download(name, allow_patterns=[*_HUB_FILES, *_HUB_PICKLES])
    except Exception as error:
        raise ValueError(
            f"{name!r} is no folder here, and fetching it from the hub failed "
            f"({type(error).__name__}: {error}); give a folder, or check name and network"
        ) from error
    return str(folder)


def check_folder(folder: str) -> None:
    """Raises ValueError, in one line, for a folder that cannot be a model.

    Looks at configuration, names and sizes: it reads a few kilobytes, not the weights.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"a model folder must exist, got {folder!r}")
    if not (Path(folder) / CONFIG_NAME).is_file():
        raise ValueError(f"a model folder must hold {CONFIG_NAME}, {folder} does not")
    MaskFormerConfig.from_json_file(Path(folder) / CONFIG_NAME)
    for path in weight_files(folder):
        if path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.stat().st_size == 0:
            raise ValueError(f"{path} is empty; copy the weights again")


def weight_files(folder: str) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before many."""
    for name in (SAFETENSORS, PICKLE):
        whole, index = Path(folder) / name, Path(folder) / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
    raise ValueError(
        f"a model folder must hold its weights as {SAFETENSORS} or {PICKLE}, or their index, "
        f"{folder} does not"
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


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        # A header longer than its file is rubbish, and not to be read into memory.
        header = file.read(length) if 8 + length <= size else b""
    try:
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        end = max((_end_of(tensor) for tensor in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file (it has {size} bytes); copy it again"
        ) from error
    if 8 + length + end != size:
        raise ValueError(
            f"{path} must have {8 + length + end} bytes by its own header, it has {size}; "
            "copy it again"
        )


def _end_of(tensor: dict[str, Any]) -> int:
    return int(tensor["data_offsets"][1])
