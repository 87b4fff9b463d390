"""A word to the first worker stops all of them after one step."""

from pathlib import Path

import torch
import torch.distributed as dist
from gloo import run_processes

from pipeline.training.stop_request import StopRequest

CPU = torch.device("cpu")


def stopped_after(*, rank: int, world_size: int, asked_after: int) -> int:
    request = StopRequest(device=CPU, rank=rank, world_size=world_size)
    return next(
        step for step in range(1, 20) if request.agreed(is_asked=rank == 0 and step >= asked_after)
    )


def run_stop_process(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    Path(folder, str(rank)).write_text(str(stopped_after(rank=rank, world_size=2, asked_after=3)))
    dist.destroy_process_group()


def test_all_workers_stop_a_step_after_the_first_was_asked(tmp_path: Path):
    run_processes(run_stop_process, folder=tmp_path, count=2)
    assert [Path(tmp_path, rank).read_text() for rank in ("0", "1")] == ["4", "4"]


def test_a_worker_alone_stops_at_once():
    assert stopped_after(rank=0, world_size=1, asked_after=3) == 3
