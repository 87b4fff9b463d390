"""A published model's files, fetched once: a model folder like any other.

Takes an entry; gives the folder `ROOT/NAME` with config.json, preprocessor_config.json and the
released file. ROOT is MASKFORMER_ZOO, or `maskformer` in the user's
cache. Where there is no network, put the released file there by hand.
"""

import hashlib
import json
import os
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from maskformer.zoo.entry import Entry

ROOT_VARIABLE = "MASKFORMER_ZOO"

_CONFIG = "config.json"
_IMAGE_PROCESSOR = "preprocessor_config.json"

_TIMEOUT_SECONDS = 60
_BLOCK_BYTES = 1 << 20


def fetched_folder(entry: Entry) -> str:
    """The folder of a model; its weights come from where they are released unless they are there.

    Raises:
        ValueError: they cannot be fetched, or are not the released ones, in one line.
    """
    folder = zoo_root() / entry.name
    # Written last: a folder with a configuration is one whose weights were found to be right.
    if (folder / _CONFIG).is_file() and (folder / entry.weights.file_name).is_file():
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / entry.weights.file_name
    if weights.is_file():
        _check(entry, weights)
    else:
        _fetch(entry, weights)
    _write(folder / _IMAGE_PROCESSOR, entry.image_processor)
    _write(folder / _CONFIG, entry.config)
    return str(folder)


def zoo_root() -> Path:
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskformer"


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _fetch(entry: Entry, path: Path) -> None:
    # Two processes may fetch at once: each its own file, and the last one stays.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with (
            urllib.request.urlopen(entry.weights.url, timeout=_TIMEOUT_SECONDS) as response,
            unfinished.open("wb") as file,
        ):
            shutil.copyfileobj(response, file, _BLOCK_BYTES)
        _check(entry, unfinished)
        unfinished.replace(path)
    except OSError as error:
        instead = "" if entry.weights.hub_id is None else f", or name {entry.weights.hub_id}"
        raise ValueError(
            f"the weights of {entry.name} must come from {entry.weights.url}, and that failed "
            f"({error}); put the file at {path}{instead}"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _check(entry: Entry, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if not found.startswith(entry.weights.md5_start):
        raise ValueError(
            f"{path} must have an MD5 that begins with {entry.weights.md5_start}, got {found}: "
            f"it is no whole copy of {entry.weights.url}; delete it if it is there, and run again"
        )
