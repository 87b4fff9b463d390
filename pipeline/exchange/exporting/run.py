"""Exports a segment table in a format of another tool.

    maskformer export TABLE OUT --format coco_panoptic

An export can be stopped at any time: the same command goes on, and leaves the same bytes.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from pipeline.corpora.reading import ReadSettings
from pipeline.exchange.exporting import export_file
from pipeline.exchange.exporting.formats import FORMATS, Format
from pipeline.exchange.exporting.output import Output
from pipeline.exchange.exporting.photographs import SourcePhotographs
from pipeline.exchange.exporting.reading import ExportCounts, TableReader
from pipeline.exchange.exporting.reviews import REVIEW_REASONS, NewestReviews
from pipeline.exchange.exporting.selection import export_labels, open_selection
from pipeline.exchange.exporting.survey import Splits, Survey, survey
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportLabel
from pipeline.exchange.settings import ExportSettings
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import ImageCount, ProgressDisplay, duration
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.runtime.versions import project_version
from pipeline.runtime.wording import count
from pipeline.storage import Storage
from pipeline.storage.locations import check_folder_location
from pipeline.storage.uris import LOCAL, protocol
from pipeline.table.plans import runs_in_order
from pipeline.table.store import TableSpec, TableStore

_VERSION = 1


def export_table(settings: Settings) -> int:
    """Exports a table; gives 0 done, 3 where photographs or all images are missing.

    Raises:
        WrongUsage: there is no such table, or what is asked for cannot be.
        StorageFault: the storage failed.
    """
    with as_wrong_usage():
        return export(
            settings.of(ExportSettings),
            storage=settings.of(Storage).with_environment(),
            reading=settings.of(ReadSettings),
        )


def export(settings: ExportSettings, *, storage: Storage, reading: ReadSettings) -> ExitCode:
    """Exports a table; see `export_table`.

    Raises:
        ValueError: as `WrongUsage` there.
    """
    started = time.monotonic()
    format = _checked_format(settings)
    table = TableStore(settings.table, storage)
    spec = table.existing_spec()
    labels = export_labels(spec, settings)
    splits = Splits(shares=settings.shares)
    log = ReviewLog.of_table(table.uri, reviews=settings.reviews, storage=storage)
    reviews = NewestReviews.of(log, settings.reviewed, spec=TableSpec.of(spec))
    with (
        Output(settings.output, storage) as output,
        open_selection(settings, labels) as selection,
    ):
        found = survey(table, format=format, splits=splits)
        model = {name: value for name, value in spec.items() if name not in _NOT_OF_THE_MODEL}
        request = _request(
            settings, reading, table=table, spec=spec, labels=labels, model=model, found=found,
            reviews=reviews,
        )  # fmt: skip
        content = export_file.begin(output, request)
        if content is not None:
            print(f"{output.uri} holds this export already: {_extent(content['counts'])}")
            return _exit_code(content["counts"])
        reader = TableReader(
            table=table,
            survey=found,
            splits=splits,
            selection=selection,
            reviews=reviews,
            photographs=_photographs(settings, storage, reading),
            model=model_name(model),
        )
        plan = ExportPlan(
            output=output,
            table=table.uri,
            labels=tuple(labels.values()),
            task=spec["task"],
            splits=tuple(settings.shares),
            num_images=found.num_images,
            shard_images=settings.shard_images,
            has_photos=settings.images != "none",
            model=model,
            image_root=settings.image_root and storage.absolute(settings.image_root),
            licence=settings.licence,
        )
        _write(format, plan, reader)
        counts = _counted(reader.counts, errors=found.errors)
        export_file.finish(
            output, {**request, "counts": counts, "not_held": dict(sorted(plan.losses.items()))}
        )
    _print_summary(output.uri, settings, reader.counts, plan, errors=found.errors, started=started)
    return _exit_code(counts)


def model_name(model: Mapping[str, Any]) -> str:
    """Returns a short name of the model that made a table."""
    given = model.get("model")
    name = given.get("name") if isinstance(given, dict) else given
    return str(name or str(model.get("model_fingerprint", ""))[:12])


_NOT_OF_THE_MODEL = frozenset(["labels", "label_ids_to_fuse", "task"])


def _write(format: Format, plan: ExportPlan, reader: TableReader) -> None:
    """Gives all records to the writer, and shows the progress."""
    writer = format.load()(plan)
    stats = RunStats()
    total = ImageCount(num_images=sum(plan.num_images.values()))
    with ProgressDisplay(stats, total, doing="exporting"):
        for record in reader.records():
            writer.add(record)
            stats.add(Counts(images=1, segments=len(record.segments)), errors=())
        writer.finish()
        plan.output.flush()


def _checked_format(settings: ExportSettings) -> Format:
    """Returns the format, if what is asked for is possible with it.

    Raises:
        ValueError: what is not, and what to do.
    """
    check_folder_location(settings.output, setting="output")
    format = FORMATS[settings.format]
    if format.needs_photos and settings.images != "copy":
        raise ValueError(
            f"{settings.format} holds the photographs in its own files, so that --images "
            f"{settings.images} is not possible; leave it out"
        )
    if settings.images == "link" and protocol(settings.output) not in LOCAL:
        raise ValueError(f"--images link needs an output on a disk, got {settings.output}")
    return format


def _photographs(
    settings: ExportSettings, storage: Storage, reading: ReadSettings
) -> SourcePhotographs | None:
    if settings.images == "none":
        return None
    return SourcePhotographs(
        storage=storage,
        reading=reading,
        image_root=settings.image_root,
        may_link=settings.images == "link",
    )


def _request(
    settings: ExportSettings,
    reading: ReadSettings,
    *,
    table: TableStore,
    spec: Mapping[str, Any],
    labels: Mapping[int, ExportLabel],
    model: Mapping[str, Any],
    found: Survey,
    reviews: NewestReviews,
) -> dict[str, Any]:
    """Returns all that decides about the bytes of an export."""
    asked = asdict(settings)
    for name in ("table", "output", "format"):
        del asked[name]
    defaults = {field.name: field.default for field in fields(ReadSettings)}
    asked |= {
        name: value
        for name, value in asdict(reading).items()
        if defaults[name] is not MISSING and value != defaults[name]
    }
    runs = runs_in_order(table)
    return {
        "export": _VERSION,
        "format": settings.format,
        "table": table.uri,
        "state": {
            "plans": len(runs),
            "last_run": runs[-1] if runs else None,
            "units": len(found.now.units),
            "units_digest": found.units_digest,
            "images": sum(found.num_images.values()),
            "images_in_error": found.errors,
            "reviews": reviews.fingerprint,
        },
        "task": spec["task"],
        "model": dict(model),
        "licence": settings.licence,
        "labels": [
            {"name": label.name, "label_id": label_id, "is_thing": label.is_thing}
            for label_id, label in labels.items()
        ],
        "settings": asked,
        "code_version": project_version(),
    }


def _counted(counts: ExportCounts, *, errors: int) -> dict[str, Any]:
    return {
        "images": counts.images,
        "images_without_segments": counts.without_segments,
        "images_reviewed": counts.reviewed,
        "segments": counts.segments,
        "segments_not_selected": counts.not_selected,
        "splits": dict(sorted(counts.splits.items())),
        "images_in_error": errors,
        "left_out": dict(sorted(counts.left_out.items())),
        "examples": dict(sorted(counts.examples.items())),
    }


def _exit_code(counts: Mapping[str, Any]) -> ExitCode:
    has_problems = counts["left_out"].keys() - {*REVIEW_REASONS}
    return ExitCode.DONE if counts["images"] and not has_problems else ExitCode.DONE_WITH_ERRORS


def _print_summary(
    uri: str,
    settings: ExportSettings,
    counts: ExportCounts,
    plan: ExportPlan,
    *,
    errors: int,
    started: float,
) -> None:
    said = _extent({"images": counts.images, "segments": counts.segments})
    print(f"exported {said} to {uri} in {duration(time.monotonic() - started)}")
    if not counts.images:
        print("no image is in the export", file=sys.stderr)
    if errors:
        print(f"{count(errors, 'image')} in error in the table: not in the export")
    for loss, number in sorted(plan.losses.items()):
        print(f"{number:,} × {settings.format} cannot hold it: {loss}")
    for reason, number in sorted(counts.left_out.items()):
        where = sys.stdout if reason in REVIEW_REASONS else sys.stderr
        print(f"{count(number, 'image')} left out, {reason}", file=where)
        if reason not in REVIEW_REASONS:
            for example in counts.examples[reason]:
                print(f"  {example}", file=where)


def _extent(counts: Mapping[str, int]) -> str:
    return f"{count(counts['images'], 'image')} with {count(counts['segments'], 'segment')}"
