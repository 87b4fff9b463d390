"""A run: from settings to a model folder, whatever happens in between.

What `jobs/finetune.py` starts. Whatever can be wrong with settings and data comes out before the
first step; a run that was stopped goes on from its last checkpoint with the same command.
"""

import dataclasses
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from maskformer import LoadReport
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.checking import Census
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.evaluation.judging import SCORES
from pipeline.evaluation.matching import unmatched_lines
from pipeline.runtime.cluster import connect, is_started_here
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.storage import Storage, join
from pipeline.training.announcer import Announcer
from pipeline.training.checking import census_lines, check_training_data
from pipeline.training.checkpoint import Checkpoints, best_of
from pipeline.training.export import Card, deliver
from pipeline.training.initial_model import read_start, reduced_labels
from pipeline.training.model_check import check_model
from pipeline.training.optimisation import check_device
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.scheduling import run_workers
from pipeline.training.settings import (
    PARTS,
    FinetuneSettings,
    OptimisationSettings,
    StartSettings,
    TargetSettings,
    ValidationSettings,
    WorkerSettings,
)
from pipeline.training.validation import Validation, validation_of
from pipeline.training.worker import TrainingJob

_SHOWN = 5

# What may change between a run and one that goes on from it: no step depends on it.
_FREE = {
    *(field.name for part in (WorkerSettings, Storage) for field in dataclasses.fields(part)),
    *("output", "checkpoint_every", "keep_checkpoints", "log_every", "licence", "drawn_images"),
    *("micro_batches", "compile"),
}


# Where a cluster is started for the run: all workers are on this machine, nobody else is to hear
# them, and what wakes up beside them a hundred times a second takes its time from theirs.
_ALONE = {
    "GLOO_SOCKET_IFNAME": "lo",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


def finetune(settings: Settings, *, announcer: Announcer) -> int:
    """Trains what is left to train, delivers the model, and gives the exit code.

    Raises:
        WrongUsage: settings, data or model are no good.
        StorageFault, SourceChanged, ConnectionError: storage or cluster failed.
    """
    with as_wrong_usage():
        return _finetune(settings, announcer=announcer)


def _finetune(settings: Settings, *, announcer: Announcer) -> int:
    wanted, storage = settings.of(FinetuneSettings), settings.of(Storage).with_environment()
    output = storage.absolute(wanted.output)
    checkpoints = Checkpoints(output, storage=storage)
    announcer.doing(f"looking for checkpoints in {output}")
    latest = checkpoints.latest()
    if latest is not None:
        _check_same_run(settings, output=output, storage=storage)
    num_steps = settings.of(OptimisationSettings).num_steps
    job = _training_job(settings, storage=storage, announcer=announcer)
    if latest is None or latest.step < num_steps:
        kept = _checked_model(job, settings=settings, announcer=announcer)
        if latest is None:
            census = _checked(job, announcer=announcer)
            announcer.say(_opening(job, census, kept=kept))
    if latest is not None:
        announcer.say(f"going on after step {latest.step:,} of {num_steps:,}")
    storage.write(join(output, "settings.yaml"), settings.to_yaml().encode())
    if latest is None or latest.step < num_steps:
        _train(job, settings=settings, announcer=announcer)
    announcer.doing(f"writing the model to {output}")
    best = best_of(checkpoints.found())
    assert best is not None
    files = deliver(output, storage=storage, best=best, card=_card(job, settings=settings))
    score = SCORES[job.data.rule.task]
    print(f"model: {output}" + ("" if best.score is None else f" ({score} {best.score:.4f})"))
    print("\n".join(f"look at {file}" for file in files))
    return ExitCode.DONE


def _train(job: TrainingJob, *, settings: Settings, announcer: Announcer) -> None:
    workers = settings.of(WorkerSettings)
    is_alone = is_started_here(workers.ray_address)
    if is_alone:
        for name, value in _ALONE.items():
            os.environ.setdefault(name, value)
    announcer.doing("starting Ray" if is_alone else f"joining {workers.ray_address}")
    connect(workers.ray_address, dashboard=workers.dashboard)
    # After Ray has set its own: a scheduler's SIGTERM is to end as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    try:
        run_workers(job, settings=workers, run_id=run_id, announcer=announcer)
    except KeyboardInterrupt:
        latest = Checkpoints(job.output, storage=job.storage).latest()
        if latest is not None:
            announcer.say(f"step {latest.step:,} is saved")
        raise


def _training_job(settings: Settings, *, storage: Storage, announcer: Announcer) -> TrainingJob:
    """All that can be wrong with the settings comes out here, before a process starts."""
    wanted, optimisation = settings.of(FinetuneSettings), settings.of(OptimisationSettings)
    workers = settings.of(WorkerSettings)
    share = workers.num_workers * optimisation.micro_batches
    if optimisation.batch_size < share:
        raise WrongUsage(
            f"batch_size must give each of {workers.num_workers} workers an image for each of "
            f"{optimisation.micro_batches} micro_batches, got {optimisation.batch_size}"
        )
    if is_started_here(workers.ray_address) and not torch.cuda.is_available():
        check_device(optimisation, device="cpu")
    announcer.doing(f"opening {settings.of(DatasetSettings).dataset}")
    dataset = _opened(
        settings.of(DatasetSettings),
        settings=settings,
        storage=storage,
        reduced_labels=reduced_labels(settings.of(StartSettings)),
    )
    announcer.doing(f"reading the model {settings.of(StartSettings).model or 'to build'}")
    start = read_start(
        settings.of(StartSettings),
        labels=dataset.labels.names,
        things=dataset.labels.things if dataset.tells_things else None,
        values=dataset.values,
    )
    data = TrainingData(
        dataset=dataset,
        augmentation=settings.of(Augmentation),
        processor=start.processor,
        seed=wanted.seed,
        targets=settings.of(TargetSettings),
    )
    return TrainingJob(
        output=storage.absolute(wanted.output),
        storage=storage,
        start=start,
        data=data,
        validation=_validation(settings, data=data, storage=storage),
        optimisation=optimisation,
        auxiliary_losses=wanted.auxiliary_losses,
        checkpoint_every=wanted.checkpoint_every,
        keep_checkpoints=wanted.keep_checkpoints,
        log_every=wanted.log_every,
        loader_processes=workers.loader_processes,
    )


def _opened(
    dataset: DatasetSettings,
    *,
    settings: Settings,
    storage: Storage,
    labels: tuple[str, ...] | None = None,
    reduced_labels: tuple[str, ...] | None = None,
) -> LabelledImages:
    return open_labelled(
        dataset,
        storage=storage,
        reading=settings.of(ReadSettings),
        model_labels=labels,
        reduced_labels=reduced_labels,
    )


def _validation(settings: Settings, *, data: TrainingData, storage: Storage) -> Validation | None:
    wanted = settings.of(ValidationSettings)
    if wanted.validation is None:
        return None
    labels = data.dataset.labels.names
    place = dataclasses.replace(
        settings.of(DatasetSettings),
        dataset=wanted.validation,
        images=wanted.validation_images,
        maps=wanted.validation_maps,
    )
    is_reduced = data.processor.do_reduce_labels
    dataset = _opened(
        place,
        settings=settings,
        storage=storage,
        labels=labels,
        reduced_labels=labels if is_reduced else None,
    )
    return validation_of(
        wanted,
        dataset=dataset,
        labels=labels,
        task=data.rule.task,
        resize_rule=data.processor.resize_rule,
    )


def _checked_model(job: TrainingJob, *, settings: Settings, announcer: Announcer) -> LoadReport:
    """Builds the model without memory, before any worker does with it."""
    announcer.doing("checking that the model, the settings and the images fit")
    optimisation = job.optimisation
    share = settings.of(WorkerSettings).num_workers * optimisation.micro_batches
    return check_model(
        job.start,
        data=job.data,
        optimisation=optimisation,
        num_images=optimisation.batch_size // share,
    )


def _checked(job: TrainingJob, *, announcer: Announcer) -> Census:
    """Reads all images and labels, of training and validation, before anything is built on them."""
    census = _read_all(job.data, announcer=announcer)
    if job.validation is not None:
        _read_all(
            dataclasses.replace(
                job.data,
                dataset=job.validation.dataset,
                model_labels=job.data.dataset.labels.names,
            ),
            announcer=announcer,
        )
    return census


def _read_all(data: TrainingData, *, announcer: Announcer) -> Census:
    num_images, begun = len(data.dataset), 0

    def indices() -> Iterator[int]:
        nonlocal begun
        for index in range(num_images):
            begun = index + 1
            yield index

    announcer.doing(
        f"checking the images and labels of {data.dataset.uri}",
        detail=lambda: f"{begun:,} of {num_images:,}",
    )
    return check_training_data(data, indices=indices())


def _opening(job: TrainingJob, census: Census, *, kept: LoadReport) -> str:
    data, optimisation = job.data, job.optimisation
    steps = f"{optimisation.num_steps:,} steps of {optimisation.batch_size} images"
    return "\n".join(
        [
            f"{data.dataset.uri} ({data.dataset.kind}), from {job.start.name}, {steps}",
            *data.dataset.notes,
            *_validation_lines(job),
            *census_lines(census, data=data, num_queries=job.start.num_queries),
            _labels_line(job, kept=kept),
            _checkpoints_line(job),
        ]
    )


def _validation_lines(job: TrainingJob) -> list[str]:
    if job.validation is None:
        return []
    judge = job.validation.judge
    lines = [
        *job.validation.dataset.notes,
        *unmatched_lines(job.data.dataset.labels.names, judge.data_label_of),
    ]
    return [f"validation: {line}" for line in lines]


def _labels_line(job: TrainingJob, *, kept: LoadReport) -> str:
    """Which labels the model knows already, by name."""
    num_labels = len(job.start.labels)
    if not kept.kept_labels:
        why = ": the model has none of their names" if job.start.is_whole else ""
        return f"all {num_labels} labels start afresh{why}"
    fresh = f"; afresh: {_some(kept.fresh_labels)}" if kept.fresh_labels else ""
    return (
        f"{len(kept.kept_labels)} of {num_labels} labels go on from the model's of the same name: "
        f"{_some(kept.kept_labels)}{fresh}"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _checkpoints_line(job: TrainingJob) -> str:
    every = f"a checkpoint every {job.checkpoint_every:,} steps, and when you stop (Ctrl-C)"
    if job.validation is None:
        return f"{every}; without --validation the last is delivered"
    score = SCORES[job.data.rule.task]
    return f"{every}; the best by {score} on {job.validation.dataset.uri} is delivered"


def _check_same_run(settings: Settings, *, output: str, storage: Storage) -> None:
    """Raises WrongUsage where the output holds a run with other settings: steps would not fit."""
    try:
        before = yaml.safe_load(storage.read(join(output, "settings.yaml")))
    except FileNotFoundError:
        return
    now = yaml.safe_load(settings.to_yaml())
    # A setting that there was not yet had no other effect than its default has.
    before = {**{name: _plain(value) for name, value in _defaults().items()}, **before}
    differing = [
        f"{name} {before.get(name)!r} is now {value!r}"
        for name, value in now.items()
        if name not in _FREE and before.get(name) != value
    ]
    if differing:
        raise WrongUsage(
            f"{output} holds a run with other settings: {'; '.join(differing)}; give the same to "
            "go on with it, or another --output"
        )


def _card(job: TrainingJob, *, settings: Settings) -> Card:
    dataset, validation = job.data.dataset, job.validation
    return Card(
        title=Path(job.output).name,
        labels=dataset.labels.names,
        things=dataset.labels.things,
        task=job.data.rule.task,
        dataset=dataset.uri,
        num_images=len(dataset),
        validation=(
            None
            if validation is None
            else f"{len(validation.dataset):,} images of {validation.dataset.uri}"
        ),
        start=job.start.name,
        licence=job.start.licence,
        recipe=_recipe(settings),
    )


def _recipe(settings: Settings) -> dict[str, Any]:
    told, defaults = yaml.safe_load(settings.to_yaml()), _defaults()
    return {
        name: value
        for name, value in told.items()
        if name not in _FREE
        and name not in ("dataset", "validation", "model")
        and value != _plain(defaults.get(name))
    }


def _defaults() -> dict[str, Any]:
    return {
        field.name: field.default
        for part in PARTS
        for field in dataclasses.fields(part)
        if field.default is not dataclasses.MISSING
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
