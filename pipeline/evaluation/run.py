"""Runs an evaluation from its settings to its numbers and pictures.

`jobs/evaluate.py` calls it. Wrong settings are found before a process starts. Wrong data ends the
evaluation with a line that names the image, so that no number covers fewer images than it says.
"""

import dataclasses
import io
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from maskformer import MeanIoU, check_shapes, label_maps_count_from_one
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.checking import check_images, hidden_label
from pipeline.datasets.dataset import TASKS, LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.evaluation.confusion import confusion_picture
from pipeline.evaluation.driver import (
    EvaluationJob,
    Segmenting,
    evaluate_model,
    evaluate_rows,
)
from pipeline.evaluation.inference_modes import inference_mode
from pipeline.evaluation.judging import SCORES, Judge
from pipeline.evaluation.matching import match_to_data_labels, stuff_to_fuse, unmatched_lines
from pipeline.evaluation.predictions import prediction_tasks
from pipeline.evaluation.report import MetricsReport, metrics_summary, report_metrics
from pipeline.evaluation.scoring import EvaluationSums
from pipeline.evaluation.settings import EvaluateSettings, InferenceSettings
from pipeline.evaluation.worst import worst_image, worst_sheet
from pipeline.labelling.model import actor_files, read_model, with_stuff
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import connect
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import ProgressDisplay
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.runtime.wording import count
from pipeline.storage import Storage, join
from pipeline.table.store import TableStore

_CHECKED_MAPS = 16


def evaluate(settings: Settings) -> int:
    """Evaluates, writes the results and prints a summary. Returns the exit code.

    Raises:
        WrongUsage: settings, data or model are wrong.
        StorageFault, SourceChanged, ConnectionError: storage or cluster failed.
    """
    with as_wrong_usage():
        return _evaluate(settings)


def _evaluate(settings: Settings) -> int:
    began = time.monotonic()
    wanted = settings.of(EvaluateSettings)
    prepared = _of_table(settings) if wanted.model is None else _of_model(settings)
    dataset = prepared.job.dataset
    print(f"{count(len(dataset), 'image')} of {dataset.uri} ({dataset.kind})", file=sys.stderr)
    for line in (*dataset.notes, *prepared.notes, *_hidden_lines(dataset)):
        print(line, file=sys.stderr, flush=True)
    actors = settings.of(ActorSettings)
    connect(actors.ray_address, dashboard=actors.dashboard)
    # Set after Ray's own handler: a scheduler's SIGTERM ends the run as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sums = _judged(prepared, actors=settings.of(ActorSettings))
    report = report_metrics(
        sums.metric,
        judge=prepared.job.judge,
        predictions=str(wanted.model or wanted.table),
        dataset=dataset.uri,
        num_images=len(sums.indices),
        num_segments=sums.num_segments,
        seconds=time.monotonic() - began,
    )
    files = _write(report, sums, job=prepared.job, settings=settings)
    print(metrics_summary(report, files=files))
    return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """The evaluation before work starts; either `segmenting` or `table` gives the predictions."""

    job: EvaluationJob
    notes: Sequence[str]
    """Lines for people about how predictions are scored."""
    segmenting: Segmenting | None = None
    table: TableStore | None = None


def _of_model(settings: Settings) -> _Prepared:
    wanted, segmenting = settings.of(EvaluateSettings), settings.of(SegmentSettings)
    model = read_model(str(wanted.model), resize_rule=segmenting.resize_rule)
    dataset = _opened(settings, model_labels=model.labels, reduced_labels=model.reduced_labels)
    job = _evaluation_job(dataset, model_labels=model.labels, settings=settings)
    check_shapes(model.folder)
    if segmenting.label_ids_to_fuse is not None:
        segmenting = with_stuff(segmenting, model=model, there=None)
    elif segmenting.task == "panoptic":
        stuff = stuff_to_fuse(
            job.judge.data_label_of,
            things=dataset.labels.things,
            model_stuff=model.stuff,
        )
        segmenting = dataclasses.replace(segmenting, label_ids_to_fuse=stuff)
    if segmenting.task == "instance" and segmenting.out_of_memory == "tile":
        raise WrongUsage(
            "out_of_memory=tile gives no whole masks, which published AP needs; use record or "
            "shrink with --task instance"
        )
    mode = inference_mode(
        settings.of(InferenceSettings),
        model=str(wanted.model),
        processor=model.processor,
        task=segmenting.task,
    )
    if settings.of(ReadSettings).decode == "gpu":
        raise WrongUsage(
            "decode=gpu has no effect on an evaluation: its readers decode; leave it out"
        )
    if segmenting.compile_cache is not None:
        raise WrongUsage("compile_cache has no effect on an evaluation; leave it out")
    if mode is not None:
        _refuse_to_resize(settings)
        if segmenting.engine != "torch":
            raise WrongUsage("--engine has no effect with --augment or --window; leave it out")
    return _Prepared(
        job=job,
        notes=unmatched_lines(model.labels, job.judge.data_label_of),
        segmenting=Segmenting(
            settings=segmenting,
            actors=settings.of(ActorSettings),
            processor=model.processor,
            model_files=actor_files(model, segmenting=segmenting),
            mode=mode,
        ),
    )


def _refuse_to_resize(settings: Settings) -> None:
    """Raises WrongUsage for settings of resized images: with a mode, actors resize them."""
    if settings.of(ReadSettings).decode != "exact":
        raise WrongUsage("decode has no effect with --augment or --window; leave it out")
    if settings.of(SegmentSettings).batch_pixels is not None:
        raise WrongUsage("batch_pixels has no effect with --augment or --window; leave it out")


def _of_table(settings: Settings) -> _Prepared:
    wanted, segmenting = settings.of(EvaluateSettings), settings.of(SegmentSettings)
    table = TableStore(str(wanted.table), settings.of(Storage).with_environment())
    with as_wrong_usage():
        spec = table.existing_spec()
    if spec["task"] != segmenting.task:
        raise WrongUsage(
            f"{table.uri} holds {spec['task']} segments and needs --task {spec['task']}, got "
            f"{segmenting.task}"
        )
    _refuse(segmenting, but=("task",))
    _refuse(settings.of(InferenceSettings), but=())
    _refuse(settings.of(ActorSettings), but=("ray_address", "reader_cpus"))
    _refuse(settings.of(ReadSettings), but=("image_members", "image_column", "key_column"))
    # Tables do not record whether label 0 was void in training; for published models it is known.
    is_reduced = label_maps_count_from_one(spec["labels"])
    dataset = _opened(
        settings,
        model_labels=spec["labels"],
        reduced_labels=tuple(spec["labels"]) if is_reduced else None,
    )
    job = _evaluation_job(dataset, model_labels=spec["labels"], settings=settings)
    notes = unmatched_lines(spec["labels"], job.judge.data_label_of)
    return _Prepared(job=job, notes=notes, table=table)


def _refuse(part: Any, *, but: tuple[str, ...]) -> None:
    """Raises WrongUsage for settings that have no effect with a table."""
    for field in dataclasses.fields(part):
        if field.name not in but and getattr(part, field.name) != field.default:
            raise WrongUsage(f"{field.name} has no effect with --table; leave it out")


def _opened(
    settings: Settings,
    *,
    model_labels: tuple[str, ...],
    reduced_labels: tuple[str, ...] | None = None,
) -> LabelledImages:
    task = settings.of(SegmentSettings).task
    limit = settings.of(EvaluateSettings).limit
    dataset = open_labelled(
        settings.of(DatasetSettings),
        storage=settings.of(Storage).with_environment(),
        reading=settings.of(ReadSettings),
        model_labels=tuple(model_labels),
        reduced_labels=reduced_labels,
    )
    if task not in TASKS[dataset.truths]:
        raise WrongUsage(
            f"{dataset.uri} has {_TRUTHS[dataset.truths]}, for --task "
            f"{' or '.join(TASKS[dataset.truths])}, got {task}"
        )
    if task == "panoptic" and not dataset.tells_things:
        raise WrongUsage(
            f"{dataset.uri}: its labels.json must say which labels are things for --task panoptic"
        )
    return dataset if limit is None else dataset.first(limit)


def _hidden_lines(dataset: LabelledImages) -> list[str]:
    """Returns a warning if the first label maps show one label only, probably by mistake."""
    if dataset.values is None:
        return []
    census = check_images(dataset, indices=range(min(_CHECKED_MAPS, len(dataset))))
    hidden = hidden_label(census, dataset=dataset)
    return [] if hidden is None else [f"in the first {census.num_images} images, the {hidden}"]


_TRUTHS = {
    "labels": "the label of each pixel",
    "segments": "segments of things and stuff",
    "instances": "instances of things",
}


def _evaluation_job(
    dataset: LabelledImages, *, model_labels: tuple[str, ...], settings: Settings
) -> EvaluationJob:
    task = settings.of(SegmentSettings).task
    return EvaluationJob(
        dataset=dataset,
        judge=Judge(
            task=task,
            labels=dataset.labels,
            data_label_of=match_to_data_labels(model_labels, dataset.labels, task=task),
        ),
        num_worst=settings.of(EvaluateSettings).worst_images,
    )


def _judged(prepared: _Prepared, *, actors: ActorSettings) -> EvaluationSums:
    stats = RunStats()

    def on_progress(images: int, segments: int) -> None:
        stats.add(Counts(images=images, segments=segments), errors=[])

    job = prepared.job
    with ProgressDisplay(stats, job, doing="evaluating"):
        if prepared.segmenting is not None:
            return evaluate_model(job, segmenting=prepared.segmenting, on_progress=on_progress)
        assert prepared.table is not None
        return evaluate_rows(
            prediction_tasks(prepared.table, dataset=job.dataset),
            job=job,
            actors=actors,
            on_progress=on_progress,
        )


def _write(
    report: MetricsReport, sums: EvaluationSums, *, job: EvaluationJob, settings: Settings
) -> list[str]:
    """Writes the output, metrics.json last. Returns the files to look at."""
    storage = settings.of(Storage).with_environment()
    output = storage.absolute(settings.of(EvaluateSettings).output)
    judge = job.judge
    pictures = {
        "worst.png": worst_sheet(
            [worst_image(worst, dataset=job.dataset) for worst in sums.worst],
            judge=judge,
            metric=SCORES[judge.task],
        )
    }
    if isinstance(sums.metric, MeanIoU):
        pictures["confusion.png"] = confusion_picture(
            sums.metric.confusion,
            names=judge.labels.names,
            iou=sums.metric.compute()["iou_per_label"],
        )
    storage.write(join(output, "settings.yaml"), settings.to_yaml().encode())
    for name, picture in pictures.items():
        storage.write(join(output, name), _png(picture))
    storage.write(join(output, "metrics.json"), report.to_json().encode())
    return [join(output, name) for name in ("metrics.json", *sorted(pictures))]


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
