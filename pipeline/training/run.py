"""Fine-tunes a model, from settings to a model folder.

All settings and data are checked before the first step. A run that was stopped resumes from its
last checkpoint with the same command.
"""

import dataclasses
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from maskformer import LoadReport, MaskFormerConfig
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.checking import Census
from pipeline.datasets.mixing import mixed_images
from pipeline.datasets.settings import DatasetSettings
from pipeline.evaluation.judging import SCORES
from pipeline.evaluation.matching import unmatched_lines
from pipeline.runtime.cluster import connect, is_started_here
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.runtime.wording import count, list_some
from pipeline.storage import Storage, join
from pipeline.training.announcer import Announcer
from pipeline.training.checking import census_lines, check_training_data
from pipeline.training.checkpoint import Checkpoints, best_of
from pipeline.training.chosen_revisions import ChosenRevisions
from pipeline.training.export import ModelCard, export_model
from pipeline.training.initial_model import read_start, reduced_labels
from pipeline.training.model_check import check_training_model
from pipeline.training.optimisation import check_device
from pipeline.training.recipes import Augmentation
from pipeline.training.sampler import Mixture
from pipeline.training.samples import TrainingData
from pipeline.training.scheduling import run_workers
from pipeline.training.settings import (
    PARTS,
    FinetuneSettings,
    OptimisationSettings,
    StartSettings,
    TargetSettings,
    TrainingSets,
    ValidationSettings,
    WorkerSettings,
)
from pipeline.training.validation import Validation, validation_of
from pipeline.training.worker import TrainingJob

# These settings may change when a run is resumed: no step depends on them.
_FREE = {
    *(field.name for part in (WorkerSettings, Storage) for field in dataclasses.fields(part)),
    *("output", "checkpoint_every", "keep_checkpoints", "log_every", "licence", "drawn_images"),
    *("micro_batches", "gradient_checkpointing"),
}


# For a cluster that the run starts on this machine: workers listen on the loopback interface only,
# and two of Ray's background tasks, which take CPU time from training, are off.
_LOCAL_CLUSTER = {
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
    chosen = ChosenRevisions(output, storage=storage, is_new=latest is None)
    job = _training_job(settings, storage=storage, announcer=announcer, chosen=chosen)
    if latest is None or latest.step < num_steps:
        kept = _checked_model(job, settings=settings, announcer=announcer)
        if latest is None:
            census = _checked(job, announcer=announcer)
            announcer.say(_opening(job, census, kept=kept))
    if latest is not None:
        announcer.say(f"resuming after step {latest.step:,} of {num_steps:,}")
    chosen.write()
    storage.write(join(output, "settings.yaml"), settings.to_yaml().encode())
    if latest is None or latest.step < num_steps:
        _train(job, settings=settings, announcer=announcer)
    announcer.doing(f"writing the model to {output}")
    best = best_of(checkpoints.found())
    assert best is not None
    files = export_model(output, storage=storage, best=best, card=_card(job, settings=settings))
    score = SCORES[job.data.rule.task]
    print(f"model: {output}" + ("" if best.score is None else f" ({score} {best.score:.4f})"))
    print("\n".join(f"see {file}" for file in files))
    return ExitCode.DONE


def _train(job: TrainingJob, *, settings: Settings, announcer: Announcer) -> None:
    workers = settings.of(WorkerSettings)
    is_alone = is_started_here(workers.ray_address)
    if is_alone:
        for name, value in _LOCAL_CLUSTER.items():
            os.environ.setdefault(name, value)
    announcer.doing("starting Ray" if is_alone else f"joining {workers.ray_address}")
    connect(workers.ray_address, dashboard=workers.dashboard)
    # Ray sets a handler of its own; a scheduler's SIGTERM must end the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    try:
        run_workers(job, settings=workers, run_id=run_id, announcer=announcer)
    except KeyboardInterrupt:
        latest = Checkpoints(job.output, storage=job.storage).latest()
        if latest is not None:
            announcer.say(f"step {latest.step:,} is saved in a checkpoint")
        raise


def _training_job(
    settings: Settings, *, storage: Storage, announcer: Announcer, chosen: ChosenRevisions
) -> TrainingJob:
    """Builds the job of all workers; raises all errors of the settings before a process starts."""
    wanted, optimisation = settings.of(FinetuneSettings), settings.of(OptimisationSettings)
    workers = settings.of(WorkerSettings)
    share = workers.num_workers * optimisation.micro_batches
    if optimisation.batch_size < share:
        raise WrongUsage(
            f"batch_size must be at least num_workers x micro_batches = {workers.num_workers} x "
            f"{optimisation.micro_batches}, got {optimisation.batch_size}"
        )
    if is_started_here(workers.ray_address) and not torch.cuda.is_available():
        check_device(optimisation, device="cpu")
    sets = settings.of(TrainingSets)
    announcer.doing(f"opening {' and '.join(sets.datasets)}")
    parts = [
        chosen.open_labelled(
            _settings_of(uri, sets=sets, storage=storage, is_only=len(sets.datasets) == 1),
            reading=settings.of(ReadSettings),
            reduced_labels=reduced_labels(settings.of(StartSettings)),
        )
        for uri in sets.datasets
    ]
    mixture = None
    if sets.dataset_weights is not None:
        mixture = Mixture(sizes=tuple(map(len, parts)), weights=sets.dataset_weights)
    dataset = parts[0] if len(parts) == 1 else mixed_images(parts)
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
        mixture=mixture,
    )
    return TrainingJob(
        output=storage.absolute(wanted.output),
        storage=storage,
        start=start,
        data=data,
        validation=_validation(settings, data=data, storage=storage, chosen=chosen),
        optimisation=optimisation,
        auxiliary_losses=wanted.auxiliary_losses,
        checkpoint_every=wanted.checkpoint_every,
        keep_checkpoints=wanted.keep_checkpoints,
        log_every=wanted.log_every,
    )


def _settings_of(
    uri: str, *, sets: TrainingSets, storage: Storage, is_only: bool, **changes: Any
) -> DatasetSettings:
    """Returns the settings of one data set: those of reviews are for the tables among several."""
    if not is_only and storage.file(join(storage.absolute(uri), "_table.json")) is None:
        changes |= {"reviewed": None, "reviews": None}
    return sets.settings_of(uri, **changes)


def _validation(
    settings: Settings, *, data: TrainingData, storage: Storage, chosen: ChosenRevisions
) -> Validation | None:
    wanted = settings.of(ValidationSettings)
    if wanted.validation is None:
        return None
    labels = data.dataset.labels.names
    dataset = chosen.open_labelled(
        _settings_of(
            wanted.validation,
            sets=settings.of(TrainingSets),
            storage=storage,
            is_only=False,
            images=wanted.validation_images,
            maps=wanted.validation_maps,
        ),
        reading=settings.of(ReadSettings),
        model_labels=labels,
        reduced_labels=labels if data.processor.do_reduce_labels else None,
    )
    return validation_of(
        wanted,
        dataset=dataset,
        labels=labels,
        task=data.rule.task,
        resize_rule=data.processor.resize_rule,
    )


def _checked_model(job: TrainingJob, *, settings: Settings, announcer: Announcer) -> LoadReport:
    """Checks the model on the meta device, before a worker builds it in memory."""
    announcer.doing("checking that the model, the settings and the images fit")
    optimisation = job.optimisation
    share = settings.of(WorkerSettings).num_workers * optimisation.micro_batches
    return check_training_model(
        job.start,
        data=job.data,
        optimisation=optimisation,
        num_images=optimisation.batch_size // share,
    )


def _checked(job: TrainingJob, *, announcer: Announcer) -> Census:
    """Reads and checks all images and labels, of training and validation."""
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
    steps = f"{count(optimisation.num_steps, 'step')} of {count(optimisation.batch_size, 'image')}"
    return "\n".join(
        [
            f"training {job.start.name} on {data.dataset.uri} ({data.dataset.kind}): {steps}",
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
    """Names the labels that the model knows already, and those that it does not know."""
    labels = count(len(job.start.labels), "label")
    if not kept.kept_labels:
        why = ": the model knows none of these names" if job.start.is_whole else ""
        return f"{labels} to learn from scratch{why}"
    fresh = f"; from scratch: {list_some(kept.fresh_labels)}" if kept.fresh_labels else ""
    return (
        f"the model knows {len(kept.kept_labels)} of {labels} by name: "
        f"{list_some(kept.kept_labels)}{fresh}"
    )


def _checkpoints_line(job: TrainingJob) -> str:
    every = count(job.checkpoint_every, "step").removeprefix("1 ")
    when = f"a checkpoint is written every {every}, and when you stop the run (Ctrl-C)"
    if job.validation is None:
        return f"{when}; without --validation the last one becomes the model"
    score = SCORES[job.data.rule.task]
    return (
        f"{when}; the one with the best {score} on {job.validation.dataset.uri} becomes the model"
    )


def _check_same_run(settings: Settings, *, output: str, storage: Storage) -> None:
    """Raises WrongUsage where the output holds a run with other settings."""
    try:
        before = yaml.safe_load(storage.read(join(output, "settings.yaml")))
    except FileNotFoundError:
        return
    now = yaml.safe_load(settings.to_yaml())
    # Settings that did not exist yet had the effect of their defaults.
    before = {**{name: _plain(value) for name, value in _defaults().items()}, **before}
    differing = [
        f"{name} {before.get(name)!r} is now {value!r}"
        for name, value in now.items()
        if name not in _FREE and before.get(name) != value
    ]
    if differing:
        raise WrongUsage(
            f"{output} holds a run with other settings: {'; '.join(differing)}; give the same "
            "settings to resume it, or another --output"
        )


def _card(job: TrainingJob, *, settings: Settings) -> ModelCard:
    dataset, validation = job.data.dataset, job.validation
    return ModelCard(
        title=Path(job.output).name,
        labels=dataset.labels.names,
        things=dataset.labels.things,
        task=job.data.rule.task,
        dataset=dataset.uri,
        num_images=len(dataset),
        validation=(
            None
            if validation is None
            else f"{count(len(validation.dataset), 'image')} of {validation.dataset.uri}"
        ),
        start=job.start.name,
        licence=job.start.licence,
        recipe=_recipe(settings),
        is_in_transformers=MaskFormerConfig.from_dict(job.start.config).is_in_transformers,
    )


def _recipe(settings: Settings) -> dict[str, Any]:
    given, defaults = yaml.safe_load(settings.to_yaml()), _defaults()
    return {
        name: value
        for name, value in given.items()
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
