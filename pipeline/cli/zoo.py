"""Prints the published models."""

from pathlib import Path

import maskformer
from maskformer import MODELS, zoo_table
from pipeline.cli.running import show
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings


def show_zoo(_: Settings) -> int:
    """Prints a line for each model; gives the exit code."""
    page = Path(maskformer.__file__).parent / "zoo" / "README.md"
    note = f"Which one to take, how fast they are, who may use them: {page}"
    show(f"{zoo_table(MODELS.values())}\n{note}")
    return ExitCode.DONE
