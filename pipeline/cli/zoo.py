"""Prints the published models."""

from maskformer import MODELS, zoo_table
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings


def show_zoo(_: Settings) -> int:
    """Prints a line for each model; gives the exit code."""
    print(zoo_table(MODELS.values()))
    return ExitCode.DONE
