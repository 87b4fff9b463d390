"""Weights from outside: conversion to the format of transformers, and the check of a folder.

    python -m maskformer.weights FOLDER      # compares names and shapes with the configuration

The driver of a job must not load torch, so `check_shapes` runs this in a process of its own.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SPEAKER = "maskformer.weights: "


def convert_weights(
    source: str,
    folder: str,
    *,
    zoo_name: str | None = None,
    config_file: str | None = None,
    dtype: str = "auto",
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> None:
    """Writes weights of any dialect as a folder in the format of transformers.

    Args:
        source: a folder, a file of weights, or a hub id.
        zoo_name: the model of the zoo that they are of; its configuration and image processor are
            written too.
        config_file: the configuration, where none lies beside the source.
        dtype: float32, bfloat16 or float16; auto keeps that of the source.

    Raises:
        ValueError, OSError: they are no such model, or cannot be read or written.
    """
    # Imported here because it loads torch, which `check_shapes` must not.
    from maskformer import conversion

    conversion.convert(
        source,
        folder,
        described=conversion.describe(zoo_name=zoo_name, config_file=config_file),
        dtype=dtype,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
    )


def check_shapes(folder: str) -> None:
    """Raises ValueError, in one line, where the weights are not those of the configuration.

    Only the model itself knows its shapes. It is built without memory and shown the shape of a
    photograph, in a process of its own: torch takes seconds to start and then stays.
    """
    checked = subprocess.run(
        [sys.executable, "-m", "maskformer.weights", str(Path(folder).absolute())],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        lines = checked.stderr.strip().splitlines() or [f"checking {folder} failed"]
        raise ValueError(lines[-1].removeprefix(_SPEAKER))


def main(folder: str) -> int:
    """Exit codes: 0 done, 2 weights that are no model, in one line."""
    from maskformer import conversion

    try:
        conversion.check_model(folder)
    except (ValueError, OSError) as error:
        print(f"{_SPEAKER}{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
