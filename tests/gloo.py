"""Processes of torch.distributed for tests, forked from one that has loaded torch and no more.

Each would load it for itself otherwise, which takes longer than what the tests do.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing


def run_processes(run: Callable[[int, str], None], *, folder: Path, count: int) -> None:
    """Calls `run(rank, folder)` in so many processes at once; raises what one of them raises."""
    # Without effect where the process to fork from is there already.
    multiprocessing.set_forkserver_preload(
        ["torch", "maskformer.criterion.loss", "pipeline.training.loop"]
    )
    torch.multiprocessing.start_processes(
        run, args=(str(folder),), nprocs=count, start_method="forkserver"
    )
