"""For the benchmarks: a Swin-T model that keeps queries as a trained one would, and photographs."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from photographs import write_photographs


@dataclass(frozen=True, kw_only=True)
class SwinT:
    """A model folder in the transformers format, and photographs it was solved on."""

    folder: Path
    photographs: tuple[Path, ...]


def make_swin_t(output: Path, *, shared: Path, num_photographs: int) -> SwinT:
    """Writes photographs, and a model that was solved on some of them.

    Ends the program with a line, and exit code 0, where the model cannot be made.
    """
    program = shared / "benchmark" / "make_swin_t.py"
    if not program.is_file():
        print(f"skipped: {program} is not there, which makes the Swin-T that is measured")
        sys.exit(0)
    paths = write_photographs(output / "photographs", shared=shared, number=num_photographs)
    folder = output / "swin-t"
    made_of = [str(path) for path in paths[:: max(1, len(paths) // 8)][:8]]
    subprocess.run(
        [sys.executable, str(program), str(folder), *made_of], check=True, capture_output=True
    )
    return SwinT(folder=folder, photographs=tuple(paths))
