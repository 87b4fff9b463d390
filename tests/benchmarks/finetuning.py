"""Steps of `jobs/finetune.py` beside a loop written by hand, and two workers beside one.

The recipe of configs/finetune/camvid.yaml on street scenes (drawn ones where there are none), on
CPUs. Of each run the first steps are left out, and the last ones too, for which nothing is loaded
any more. Steps of the same number learn from the same images on every side and are compared with
each other; ratios are medians of these pairs.

- `job_over_hand_written`: one worker on all cores, from its settings through Ray Train to its
  history, over plain torch in one process: the same model, samples, losses, AdamW, clipping and
  moving average, with a `DataLoader` of one process. Both sides' mean losses are printed.
- `data_wait`: share of a step's time that the two workers wait for data.
- `two_workers_over_one`: two workers over one for the same batch, each kept on a core of its own
  with the process that loads for it. Ray's own processes run where they like.

Prints one JSON line; takes five to twelve minutes on two cores.

    python tests/benchmarks/finetuning.py [--shared ../shared] [--steps 6] [--repeats 2]
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import psutil
import yaml

WARM_UP, TAIL = 2, 2
MOST_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class StepMeasurements:
    """The measurements of one run, an entry for each step that counts."""

    seconds: list[float]
    losses: list[float]
    data_wait: list[float]
    """Shares of the seconds; none of the loop by hand."""


def main() -> None:
    """Measures in turn and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--config", type=Path, default=ROOT / "configs/finetune/camvid.yaml")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", nargs=argparse.REMAINDER, help="the loop by hand, with settings")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(hand_written(arguments.one))))
        return
    num_threads = len(os.sched_getaffinity(0))
    cores = _two_cores()
    sides: dict[str, list[StepMeasurements]] = {"hand": [], "job": [], "one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--config={arguments.config}", *_data(arguments.shared, folder=folder)]
        num_steps = WARM_UP + arguments.steps + TAIL
        words += [f"--num_steps={num_steps}", f"--checkpoint_every={num_steps}", "--log_every=1"]
        for repeat in range(arguments.repeats):
            # Turned round each time, so that what else the machine does meets both alike.
            for side in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
                output = str(Path(folder, f"{side}-{repeat}"))
                of_run = [*words, f"--output={output}"]
                if side == "hand":
                    steps = _hand(of_run)
                elif side == "job":
                    steps = _job(of_run, output, num_workers=1, worker_cpus=num_threads)
                else:
                    kept_on = cores if side == "two" else cores[:1]
                    steps = _job(of_run, output, num_workers=len(kept_on), worker_cpus=1,
                                 kept_on=kept_on)  # fmt: skip
                sides[side].append(steps)
    batch_size = yaml.safe_load(arguments.config.read_text())["batch_size"]
    print(json.dumps(_result(sides, cores=num_threads, batch_size=batch_size)))


def _result(
    sides: dict[str, list[StepMeasurements]], *, cores: int, batch_size: int
) -> dict[str, Any]:
    mean_loss = {
        side: round(statistics.mean(loss for run in runs for loss in run.losses), 3)
        for side, runs in sides.items()
    }
    # Dropout is drawn otherwise on each side; what differs by more was not the same training.
    if max(mean_loss.values()) > 1.1 * min(mean_loss.values()):
        raise SystemExit(f"the sides did not do the same: {mean_loss}")

    def rate(side: str) -> float:
        seconds = [second for steps in sides[side] for second in steps.seconds]
        return round(batch_size / statistics.median(seconds), 3)

    def ratio(side: str, over: str) -> float:
        pairs = [
            pair
            for mine, theirs in zip(sides[side], sides[over], strict=True)
            for pair in zip(mine.seconds, theirs.seconds, strict=True)
        ]
        return round(statistics.median(theirs / mine for mine, theirs in pairs), 3)

    two = [pair for s in sides["two"] for pair in zip(s.data_wait, s.seconds, strict=True)]
    waited = sum(share * seconds for share, seconds in two)
    return {
        "benchmark": "finetuning",
        "cores": cores,
        "steps": sum(len(steps.seconds) for steps in sides["job"]),
        "images_per_second": {side: rate(side) for side in sides},
        "mean_loss": mean_loss,
        "job_over_hand_written": ratio("job", "hand"),
        "data_wait": round(waited / sum(seconds for _, seconds in two), 4),
        "two_workers_over_one": ratio("two", "one"),
    }


def _data(shared: Path, *, folder: str) -> list[str]:
    """Settings of what there is: images with labels, and a backbone's weights."""
    street = shared / "data" / "camvid" / "train-0000.tar"
    weights = shared / "weights" / "tf_efficientnet_lite0.safetensors"
    of_model = [f"--model={weights}"] if weights.is_file() else []
    if street.is_file():
        return [f"--dataset={street}", *of_model]
    from pipeline.demo.scenes.shards import write_shards

    place = str(Path(folder, "drawn"))
    write_shards(place, num_images=80, seed=1, sizes=((360, 480),))
    return [f"--dataset={place}", *of_model]


# The job


def _job(
    words: Sequence[str],
    output: str,
    *,
    num_workers: int,
    worker_cpus: int,
    kept_on: Sequence[int] = (),
) -> StepMeasurements:
    command = [
        sys.executable, str(ROOT / "jobs" / "finetune.py"), *words,
        f"--num_workers={num_workers}", f"--worker_cpus={worker_cpus}",
    ]  # fmt: skip
    job = subprocess.Popen(
        command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    keeper = Keeper(job.pid, cores=kept_on)
    try:
        _, told = job.communicate(timeout=MOST_SECONDS)
    finally:
        job.kill()
        keeper.stop()
    if job.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {job.returncode}: {told}")
    if keeper.num_kept != len(kept_on):
        raise SystemExit(f"{keeper.num_kept} workers were kept on cores, not {len(kept_on)}")
    lines = [json.loads(line) for line in Path(output, "metrics.jsonl").read_text().splitlines()]
    counted = [line for line in lines if line["kind"] == "train"][WARM_UP:-TAIL]
    settings = yaml.safe_load(Path(output, "settings.yaml").read_text())
    return StepMeasurements(
        seconds=[settings["batch_size"] / line["images_per_second"] for line in counted],
        losses=[line["loss"] for line in counted],
        data_wait=[line["data_wait"] for line in counted],
    )


class Keeper:
    """Keeps each worker of a job, and what it starts, on a core of its own, from its start on."""

    def __init__(self, pid: int, *, cores: Sequence[int]) -> None:
        self._job, self._cores = psutil.Process(pid), cores
        self._core_of: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep)
        if cores:
            self._thread.start()

    @property
    def num_kept(self) -> int:
        return len(self._core_of)

    def stop(self) -> None:
        self._over.set()
        if self._cores:
            self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(0.2):
            try:
                processes = self._job.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    if "RayTrainWorker" in " ".join(process.cmdline()):
                        self._keep_worker(process)
                except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                    continue

    def _keep_worker(self, worker: psutil.Process) -> None:
        if worker.ppid() in self._core_of:
            return  # what it starts has its name for a moment, and its core from it
        if worker.pid not in self._core_of:
            self._core_of[worker.pid] = self._cores[len(self._core_of)]
        core = self._core_of[worker.pid]
        for process in (worker, *worker.children(recursive=True)):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {core})


def _two_cores() -> list[int]:
    """Two that this process may use, on two cores of the machine where it tells them apart."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("two workers need two cores, and there is one")

    def siblings(core: int) -> str:
        place = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        return place.read_text() if place.is_file() else str(core)

    others = [core for core in allowed if siblings(core) != siblings(allowed[0])]
    return [allowed[0], (others or allowed[1:])[0]]


def _environment() -> dict[str, str]:
    """This process's, without GPUs and without a cluster of somebody else's."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**others, "CUDA_VISIBLE_DEVICES": ""}


# By hand


def _hand(words: Sequence[str]) -> StepMeasurements:
    command = [sys.executable, __file__, "--one", *words]
    ran = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=_environment(),
        timeout=MOST_SECONDS,
    )  # fmt: skip
    return StepMeasurements(**json.loads(ran.stdout.splitlines()[-1]))


def hand_written(words: Sequence[str]) -> StepMeasurements:
    """The loop that one would write for this model, in one process on all cores."""
    import torch
    from torch import nn
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from pipeline.runtime.allocator import keep_memory
    from pipeline.runtime.settings import parse
    from pipeline.training.initial_model import StartSettings, build_model, read_start
    from pipeline.training.optimisation import OptimisationSettings, build_optimiser, rate_share
    from pipeline.training.settings import PARTS

    keep_memory()  # as the job's workers do, so that it is no part of the ratio
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    settings = parse(PARTS, arguments=words)
    recipe = settings.of(OptimisationSettings)
    batches, labels = _batches(settings, recipe=recipe)
    model = build_model(read_start(settings.of(StartSettings), labels=labels), seed=0).train()
    optimiser = build_optimiser(model, settings=recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, [_share_of(group, recipe, rate_share) for group in optimiser.param_groups]
    )
    assert recipe.average_decay is not None
    assert recipe.clip_norm is not None
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average_decay))
    seconds, losses = [], []
    began = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            outputs = model(batch.pixel_values, output_auxiliary_logits=True)
            by_name = model.get_loss_dict(
                outputs.masks_queries_logits,
                outputs.class_queries_logits,
                batch.mask_labels,
                batch.class_labels,
                outputs.auxiliary_logits,
                valid=batch.valid,
            )
            loss = model.get_loss(by_name)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        averaged.update_parameters(model)
        losses.append(loss.item())
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
    counted = slice(WARM_UP, -TAIL)
    return StepMeasurements(seconds=seconds[counted], losses=losses[counted], data_wait=[])


def _share_of(group: dict[str, Any], recipe: Any, rate_share: Any) -> Any:
    group["lr"] *= group["rate"]
    return functools.partial(rate_share, settings=recipe)


def _batches(settings: Any, *, recipe: Any) -> tuple[Any, tuple[str, ...]]:
    """A `DataLoader` of the job's batches, and the labels of the data."""
    from torch.utils.data import DataLoader, Dataset

    from pipeline.datasets.opening import open_labelled
    from pipeline.training.batches import TrainingSample, collate
    from pipeline.training.initial_model import StartSettings, read_start
    from pipeline.training.recipes import Augmentation
    from pipeline.training.sampler import SampleIndex, step_indices
    from pipeline.training.samples import TrainingData
    from pipeline.training.settings import TargetSettings, TrainingSets

    sets = settings.of(TrainingSets)
    dataset = open_labelled(sets.settings_of(*sets.datasets))
    labels = dataset.labels.names
    data = TrainingData(
        dataset=dataset,
        augmentation=settings.of(Augmentation),
        processor=read_start(settings.of(StartSettings), labels=labels).processor,
        seed=0,
        targets=settings.of(TargetSettings),
    )

    class Samples(Dataset[TrainingSample]):
        def __getitem__(self, sample_index: SampleIndex) -> TrainingSample:  # type: ignore[override]
            return data.sample(sample_index.epoch, sample_index.index)

    indices = [
        step_indices(step, global_batch=recipe.batch_size, num_images=len(data), seed=0)
        for step in range(recipe.num_steps)
    ]
    loader = DataLoader(
        Samples(),
        batch_sampler=indices,  # type: ignore[arg-type]
        num_workers=1,
        prefetch_factor=2,
        collate_fn=functools.partial(
            collate, processor=data.processor, padded_size=data.augmentation.padded_size
        ),
    )
    return loader, labels


if __name__ == "__main__":
    main()
