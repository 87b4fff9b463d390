"""Fine-tunes with one worker in this process, without Ray.

    python train_alone.py OPTIONS

OPTIONS are those of `maskformer train`. Tests call the function, or kill the program.
"""

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest


def train_alone(options: Sequence[str]) -> int:
    """Runs the job as `maskformer train` does; returns its exit code."""
    from one_worker import be_the_only_worker

    from pipeline.cli.running import run_job
    from pipeline.training import run
    from pipeline.training.worker import train

    with pytest.MonkeyPatch.context() as patch:
        be_the_only_worker(patch)
        patch.setattr(run, "connect", lambda *_, **__: None)
        patch.setattr(run, "run_workers", lambda job, **_: train(replace(job, loader_processes=0)))
        patch.setattr(signal, "signal", lambda *_: None)
        return run_job("train", [*options, "--num_workers", "1"])


if __name__ == "__main__":
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]  # for the packages, and for one_worker
    sys.exit(train_alone(sys.argv[1:]))
