"""Trains on one worker of many, from the last checkpoint to the end.

Ray Train calls `train` on each worker, after setting up torch.distributed. When a worker fails, all
are started again and resume from the last complete checkpoint.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from maskformer import MaskFormerForInstanceSegmentation
from pipeline.runtime.allocator import keep_memory
from pipeline.runtime.wording import count
from pipeline.storage import Storage, join
from pipeline.training.batches import Batch
from pipeline.training.checkpoint import (
    TRAINING_STATE,
    Checkpoint,
    Checkpoints,
    checkpoint_name,
    ray_train_storage,
)
from pipeline.training.history import History
from pipeline.training.initial_model import Start, build_model
from pipeline.training.loading import load_batches
from pipeline.training.loop import StepResult, Trainer
from pipeline.training.notes import WorkerNotes
from pipeline.training.optimisation import OptimisationSettings
from pipeline.training.samples import TrainingData
from pipeline.training.stop_request import StopRequest
from pipeline.training.validation import Validation, ValidationResult, validation_precision
from pipeline.training.validation_blocks import ValidationBlocks

_COMPILED_MULTIPLE = 64


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that the workers of a run need; travels by value."""

    output: str
    storage: Storage
    start: Start
    data: TrainingData
    validation: Validation | None
    optimisation: OptimisationSettings
    auxiliary_losses: bool
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int
    loader_processes: int = 1
    """Of each worker."""
    num_threads: int | None = None
    """Threads of a worker's arithmetic; None for torch's own choice."""

    @property
    def size_multiple(self) -> int:
        """Returns the step of the sides of batches: compiled blocks serve those of one size."""
        has_one_size = self.data.augmentation.pad_to_crop
        return _COMPILED_MULTIPLE if self.optimisation.compile and not has_one_size else 1


def train(job_reference: "ray.ObjectRef[TrainingJob]") -> str | None:
    """Takes all steps that are left; returns the reason why all workers had to stop, or None.

    Args:
        job_reference: the `TrainingJob` in Ray's object store, which holds it once for all workers.
    """
    keep_memory()
    job = ray.get(job_reference)
    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    try:
        _Run(job).to_the_end()
    except FloatingPointError as error:
        # It comes at the same step on all workers, and would come again.
        return str(error)
    return None


class _Run:
    """A worker's part of a run."""

    def __init__(self, job: TrainingJob) -> None:
        context = ray.train.get_context()
        self._training_job = job
        self._rank, self._world_size = context.get_world_rank(), context.get_world_size()
        self._checkpoints = Checkpoints(job.output, storage=job.storage)
        # All workers find the same: nothing is written before their first collective.
        latest = self._checkpoints.latest()
        self._first_step = 0 if latest is None else latest.step
        self._notes: WorkerNotes | None = None
        if self._rank == 0:
            self._notes = WorkerNotes(
                join(self._checkpoints.root, context.get_experiment_name()),
                storage=job.storage,
                first_step=self._first_step,
            )
        self._say("loading the weights")
        self._trainer = self._made_trainer(latest)
        self._stop = StopRequest(
            device=self._trainer.model.device, rank=self._rank, world_size=self._world_size
        )
        self._validation_blocks: ValidationBlocks | None = None
        self._history: History | None = None
        if self._rank == 0:
            self._history = History(job.output, storage=job.storage, first_step=self._first_step)

    def to_the_end(self) -> None:
        """Takes the steps that are left; on request, stops after a step with a checkpoint."""
        settings = self._training_job.optimisation
        meter = _Meter(device=self._trainer.model.device, world_size=self._world_size)
        for step, micro_batches in self._batches(meter):
            result = self._trainer.step(micro_batches, step=step)
            meter.add(result, num_images=settings.batch_size)
            done = step + 1
            if self._notes is not None:
                self._notes.step_taken(done)
            is_last = done == settings.num_steps
            is_judged = done % self._training_job.checkpoint_every == 0 or is_last
            is_asked = self._notes is not None and self._notes.is_stop_asked
            is_stopped = self._stop.agreed(is_asked) and not is_last
            is_saved = is_judged or is_stopped
            # Each checkpoint gets a line too, so that a resumed run averages over the same steps;
            # the first step gets one, since somebody waits to see that the run learns.
            if done % self._training_job.log_every == 0 or is_saved or done == 1:
                self._trainer.settle()
                line = meter.line(step=done, left_out=self._trainer.num_left_out)
                if self._history is not None:
                    self._history.add(line)
            if is_saved:
                self._checkpoint(done, result=self._validate(done) if is_judged else None)
                meter.start()
            if is_stopped:
                break
        if self._history is not None:
            self._history.close()

    def _made_trainer(self, latest: Checkpoint | None) -> Trainer:
        job = self._training_job
        with tempfile.TemporaryDirectory() as folder:
            state = None
            if latest is None:
                model = build_model(job.start, seed=job.data.seed)
            else:
                self._checkpoints.fetch(latest, into=Path(folder))
                model = MaskFormerForInstanceSegmentation.from_pretrained(folder)
                state = torch.load(
                    Path(folder, TRAINING_STATE), map_location="cpu", weights_only=True
                )
            trainer = Trainer(
                model.to(ray.train.torch.get_device()),
                settings=job.optimisation,
                seed=job.data.seed,
                auxiliary_losses=job.auxiliary_losses,
            )
            if state is not None:
                trainer.load_state_dict(state)
        return trainer

    def _batches(self, meter: "_Meter") -> Iterator[tuple[int, Sequence[Batch]]]:
        settings, device = self._training_job.optimisation, self._trainer.model.device
        steps = range(self._first_step, settings.num_steps)
        batches = load_batches(
            self._training_job.data,
            steps=steps,
            global_batch=settings.batch_size,
            rank=self._rank,
            world_size=self._world_size,
            micro_batches=settings.micro_batches,
            num_processes=self._training_job.loader_processes,
            device=device,
            multiple=self._training_job.size_multiple,
        )
        self._say("reading the first images")
        for step in steps:
            with meter.waiting():
                micro_batches = next(batches)
            if step == self._first_step:
                self._say("taking the first step, for which kernels may be compiled")
            yield step, micro_batches

    def _validate(self, step: int) -> ValidationResult | None:
        validation = self._training_job.validation
        if validation is None:
            return None
        self._say(f"evaluating step {step:,} on {count(len(validation.dataset), 'image')}")
        self._trainer.share_buffers()
        result = validation.evaluate(
            self._trainer.delivered,
            processor=self._training_job.start.processor,
            rank=self._rank,
            world_size=self._world_size,
            blocks=self._blocks_of(validation),
            precision=validation_precision(
                self._training_job.optimisation, device=self._trainer.model.device
            ),
        )
        if self._history is not None:
            self._history.add({"step": step, "kind": "validation", **result.metrics})
            if result.worst:
                self._history.add_picture("worst", validation.picture(result), step=step)
        return result

    def _blocks_of(self, validation: Validation) -> ValidationBlocks:
        if self._validation_blocks is None:
            # On a CPU, which computes for a second for each image, more processes gain nothing.
            beside_gpu = self._trainer.model.device.type == "cuda"
            self._validation_blocks = validation.blocks(
                processor=self._training_job.start.processor,
                rank=self._rank,
                world_size=self._world_size,
                num_processes=self._training_job.loader_processes if beside_gpu else 0,
            )
        return self._validation_blocks

    def _checkpoint(self, step: int, *, result: ValidationResult | None) -> None:
        """Saves a checkpoint and reports it to Ray Train; a barrier for all workers."""
        metrics = {} if result is None else dict(result.metrics)
        if self._rank != 0:
            ray.train.report(metrics)
            return
        assert self._history is not None
        self._say(f"writing the checkpoint of step {step:,}")
        # Lines are written before their checkpoint, so that a run resumed from it has them all.
        self._history.flush()
        with tempfile.TemporaryDirectory() as folder:
            self._trainer.delivered.save_pretrained(folder)
            self._training_job.start.processor.save_pretrained(folder)
            torch.save(self._trainer.state_dict(), Path(folder, TRAINING_STATE))

            def upload(made: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
                return self._upload(Path(made.path), name=name, step=step, result=result)

            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoint_name(step),
                checkpoint_upload_fn=upload,
            )
        self._checkpoints.prune(keep_last=self._training_job.keep_checkpoints)
        if self._notes is not None:
            self._notes.saved()

    def _say(self, activity: str) -> None:
        if self._notes is not None:
            self._notes.doing(activity)

    def _upload(
        self, folder: Path, *, name: str, step: int, result: ValidationResult | None
    ) -> ray.train.Checkpoint:
        """Saves the files in the folder that Ray Train would use, as a complete checkpoint."""
        run, root = ray.train.get_context().get_experiment_name(), self._checkpoints.root
        self._checkpoints.save(
            folder,
            uri=join(root, run, name),
            step=step,
            score=None if result is None else result.score,
            metrics={} if result is None else result.metrics,
            per_label={} if result is None else result.per_label,
        )
        folder_path, filesystem = ray_train_storage(root, storage=self._training_job.storage)
        return ray.train.Checkpoint(path=f"{folder_path}/{run}/{name}", filesystem=filesystem)


class _Meter:
    """Sums losses since the last line of the history, on the device, so that steps do not wait."""

    def __init__(self, *, device: torch.device, world_size: int) -> None:
        self._device, self._world_size = device, world_size
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()
        self._waited = 0.0
        self._num_images = self._num_steps = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._last: StepResult | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(self, result: StepResult, *, num_images: int) -> None:
        self._num_images += num_images
        self._num_steps += 1
        self._last = result
        for name, loss in result.losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss

    def line(self, *, step: int, left_out: int) -> dict[str, Any]:
        """Returns a line of the history, with means over steps and workers; all must call it."""
        assert self._last is not None
        seconds = time.monotonic() - self._began
        names = list(self._sums)
        waited_here = torch.tensor(self._waited, device=self._device)
        numbers = torch.stack([*self._sums.values(), waited_here]).double()
        if self._world_size > 1:
            dist.all_reduce(numbers)
        # The host waits for the device here, once in all the steps of the line.
        *losses, waited, grad_norm = torch.cat(
            [numbers / self._world_size, self._last.grad_norm.double()[None]]
        ).tolist()
        by_name = {name: loss / self._num_steps for name, loss in zip(names, losses, strict=True)}
        line = {
            "step": step,
            "kind": "train",
            "loss": sum(by_name.values()),
            "losses": {name.removeprefix("loss_"): loss for name, loss in by_name.items()},
            "learning_rate": self._last.learning_rate,
            "grad_norm": grad_norm,
            "images_per_second": self._num_images / seconds,
            "data_wait": waited / seconds,
            "left_out": left_out,
        }
        self.start()
        return line
