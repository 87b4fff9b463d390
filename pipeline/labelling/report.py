"""Reports: what a run did, for people in a summary, for programs in `report.json`."""

import json
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from pipeline.planning.planner import Plan
from pipeline.runtime.progress import duration
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.skips import OF_NO_KNOWN_KIND, SkipCounts


class ExitCode(IntEnum):
    """What a scheduler is told."""

    DONE = 0
    WRONG_USAGE = 2
    DONE_WITH_ERRORS = 3
    BUDGET_EXCEEDED = 4
    TRY_AGAIN = 75


@dataclass(frozen=True, kw_only=True)
class Report:
    """Counts and rates of one run; `images` and `segments` are what this run added."""

    run_id: str
    table: str
    corpus: str
    exit_code: int
    seconds: float
    images: int
    images_in_error: int
    segments: int
    images_per_second: float | None
    """After the first block of images; None where there was but one."""
    bytes_read: int
    """Encoded bytes of the images that were decoded."""
    units_planned: int
    units_committed: int
    units_done_before: int
    errors: dict[str, int]
    """Images in error by class."""
    error_examples: dict[str, list[dict[str, str]]]
    """The first images of each class, with their messages."""
    faults: dict[str, str]
    """Units that are not done, and why."""
    files_passed_over: int
    """Files of no known kind; `passed_over` has these and all others."""
    files_passed_over_examples: list[str]
    files_named_twice: int
    storage_retries: dict[str, int] = field(default_factory=dict)
    """Requests to the storage that were made again, by the kind of their fault."""
    storage_wait_seconds: float = 0.0
    """For which they waited, all of them together."""
    gpu_seconds: float = 0.0
    """GPUs that the actors held, times the seconds for which the run held them."""
    node_seconds: float = 0.0
    """Nodes of the cluster, times the same seconds."""
    units_elsewhere: int = 0
    """Units that a run beside this one had done when this one came to them."""
    units_left: int = 0
    """Units that the deadline left for another run."""
    files_waiting: int = 0
    """Files that may still be written, left for another run."""
    images_tried_again: int = 0
    """Images in error that were planned again."""
    files_gone: int = 0
    """Files and archives that were labelled and are absent now; their rows stay."""
    files_gone_example: str | None = None
    files_out_of_reach: int = 0
    """Files that the storage could say nothing of, left for another run."""
    files_out_of_reach_examples: list[str] = field(default_factory=list)
    """Why, of the first of them."""
    passed_over: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What could be images and is none, by reason: `count`, and `examples`, the first of them.

    Files are counted whenever the corpus is listed, members of archives when they are read."""

    @property
    def units_undone(self) -> int:
        """Planned units that are not done though nothing kept this run from them."""
        return self.units_planned - self.units_committed - self.units_elsewhere - self.units_left

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def make_report(
    *,
    run_id: str,
    table: str,
    corpus: str,
    plan: Plan,
    stats: RunStats,
    seconds: float,
    error_budget: float,
    was_stopped: bool,
) -> Report:
    """The report of a run that is over."""
    return Report(
        run_id=run_id,
        table=table,
        corpus=corpus,
        exit_code=_exit_code(plan, stats, error_budget=error_budget, was_stopped=was_stopped),
        seconds=round(seconds, 2),
        images=stats.counts.images,
        images_in_error=stats.counts.num_errors,
        segments=stats.counts.segments,
        images_per_second=stats.images_per_second,
        bytes_read=stats.counts.bytes_read,
        units_planned=len(plan.units),
        units_committed=stats.units,
        units_done_before=plan.done,
        errors=dict(stats.counts.errors.most_common()),
        error_examples=stats.examples,
        faults=dict(list(stats.faults.items())[:100]),
        files_passed_over=plan.skipped.counts[OF_NO_KNOWN_KIND],
        files_passed_over_examples=plan.skipped.examples.get(OF_NO_KNOWN_KIND, []),
        files_named_twice=len(plan.doubled) + plan.more_doubled,
        units_elsewhere=stats.units_elsewhere,
        units_left=stats.units_left,
        files_waiting=plan.waiting,
        images_tried_again=plan.tried_again,
        files_gone=plan.gone,
        files_gone_example=plan.first_gone,
        files_out_of_reach=plan.out_of_reach,
        files_out_of_reach_examples=list(plan.storage_faults),
        passed_over=_together(plan.skipped, stats.counts.skipped).to_dict(),
        storage_retries=dict(stats.storage_retries.most_common()),
        storage_wait_seconds=round(stats.storage_wait_seconds, 2),
        gpu_seconds=round(stats.gpus * stats.seconds_at_work, 2),
        node_seconds=round(stats.nodes * stats.seconds_at_work, 2),
    )


def _together(*parts: SkipCounts) -> SkipCounts:
    together = SkipCounts()
    for part in parts:
        together.add_all(part.to_rows())
    return together


def over_budget(counts: Counts, *, error_budget: float) -> bool:
    """Whether the share of images in error is above the budget."""
    return counts.num_errors > error_budget * counts.images


def _exit_code(plan: Plan, stats: RunStats, *, error_budget: float, was_stopped: bool) -> ExitCode:
    if over_budget(stats.counts, error_budget=error_budget):
        return ExitCode.BUDGET_EXCEEDED
    if was_stopped or plan.out_of_reach or stats.units_over < len(plan.units):
        return ExitCode.TRY_AGAIN
    return ExitCode.DONE_WITH_ERRORS if stats.counts.num_errors else ExitCode.DONE


def summary(report: Report, *, report_file: str) -> str:
    """The report in some lines for people: what was done, what went wrong, what to do."""
    lines = []
    if report.units_done_before:
        lines.append(f"units done before, not read again: {report.units_done_before:,}")
    rate = report.images_per_second
    lines.append(
        f"labelled {report.images:,} images with {report.segments:,} segments "
        f"in {duration(report.seconds)}" + (f", {rate:.3g} images/s" if rate else "")
    )
    for name, count in report.errors.items():
        example = report.error_examples[name][0]["message"]
        lines.append(f"  {count:,} × {name}, as {example}")
    for reason, said in report.passed_over.items():
        files = "file" if said["count"] == 1 else "files"
        lines.append(f"passed over {said['count']:,} {files} ({reason}), as {said['examples'][0]}")
    if report.files_named_twice:
        lines.append(f"took {report.files_named_twice:,} files once that are named twice")
    if report.storage_retries:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.storage_retries.items())
        waited = duration(report.storage_wait_seconds)
        lines.append(f"asked the storage again: {kinds}; {waited} of waiting in all")
    if report.faults:
        reason = next(iter(report.faults.values()))
        lines.append(f"units not done: {report.units_undone:,}, as {reason}")
    if report.files_out_of_reach:
        lines.append(
            f"files out of reach, left for another run: {report.files_out_of_reach:,}, as "
            f"{report.files_out_of_reach_examples[0]}"
        )
    if report.files_gone:
        lines.append(
            f"labelled before and absent now, their rows stay: {report.files_gone:,}, as "
            f"{report.files_gone_example}"
        )
    if report.units_elsewhere:
        lines.append(f"units that a run beside this one has done: {report.units_elsewhere:,}")
    if report.images_tried_again:
        lines.append(f"images tried again: {report.images_tried_again:,}")
    if report.files_waiting:
        lines.append(
            f"files that may still be written, left for another run: {report.files_waiting:,}"
        )
    if report.units_left:
        lines.append(f"units left for another run, the deadline came: {report.units_left:,}")
    lines.append(_advice(report))
    lines.append(f"table: {report.table}")
    lines.append(f"report: {report_file}")
    return "\n".join(lines)


def _advice(report: Report) -> str:
    return {
        ExitCode.DONE: "done",
        ExitCode.DONE_WITH_ERRORS: "done; images in error have a row with status=error",
        ExitCode.BUDGET_EXCEEDED: (
            f"{report.images_in_error:,} of {report.images:,} images are in error, more than "
            "--error_budget allows; what is good was kept. Look at the errors, then run again"
        ),
        ExitCode.TRY_AGAIN: "not finished; run the same command again to go on",
    }[ExitCode(report.exit_code)]
