"""Reports what a run did: in `report.json` for programs, in a summary for people."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.labelling.expectations import Outcome
from pipeline.planning.planner import Plan
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import duration
from pipeline.runtime.run_stats import Counts, RunStats
from pipeline.runtime.skips import OF_NO_KNOWN_KIND, SkipCounts
from pipeline.runtime.wording import count


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
    """Rate after the first block of images; None where there was only one block."""
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
    """Reasons by unit, of units that are not done."""
    files_passed_over: int
    """Files of no known kind; `passed_over` counts these and all other reasons."""
    files_passed_over_examples: list[str]
    files_named_twice: int
    storage_retries: dict[str, int] = field(default_factory=dict)
    """Requests to the storage that were made again, by the kind of their fault."""
    storage_wait_seconds: float = 0.0
    """Seconds for which these waited, added up."""
    gpu_seconds: float = 0.0
    """GPUs of the actors, times the seconds for which the run held them."""
    node_seconds: float = 0.0
    """Nodes of the cluster, times the seconds for which the run held them."""
    gpus_left_alone: list[dict[str, Any]] = field(default_factory=list)
    """GPUs that failed twice or more and got no further work: node, gpu, uuid, failures, error."""
    units_elsewhere: int = 0
    """Units that another run did at the same time."""
    units_left: int = 0
    """Units that the deadline left for another run."""
    files_waiting: int = 0
    """Files that may be incomplete still, left for another run."""
    images_tried_again: int = 0
    """Images in error that were planned again."""
    files_gone: int = 0
    """Files and archives that were labelled before and do not exist now; their rows stay."""
    files_gone_example: str | None = None
    files_out_of_reach: int = 0
    """Files that the storage could not look up, left for another run."""
    files_out_of_reach_examples: list[str] = field(default_factory=list)
    """The first of the reasons."""
    passed_over: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Files that could be images and are none, by reason: `count`, and the first as `examples`.

    Files are counted whenever the corpus is listed, members of archives when they are read."""

    expectations: list[dict[str, Any]] = field(default_factory=list)
    """The rules of `--expect`: rule, min, max, value, is_met."""

    @property
    def units_undone(self) -> int:
        """Planned units that this run should have done and did not."""
        return self.units_planned - self.units_committed - self.units_elsewhere - self.units_left

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def report_run(
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
    """Returns the report of a run that has ended."""
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
        gpus_left_alone=stats.gpus_left_alone,
    )


def _together(*parts: SkipCounts) -> SkipCounts:
    together = SkipCounts()
    for part in parts:
        together.add_all(part.to_rows())
    return together


def with_expectations(report: Report, outcomes: Sequence[Outcome]) -> Report:
    """Returns the report with the rules of `--expect`, and their exit code where one fails."""
    code = ExitCode(report.exit_code)
    if code == ExitCode.DONE and not all(outcome.is_met for outcome in outcomes):
        code = ExitCode.DONE_WITH_ERRORS
    return replace(report, exit_code=code, expectations=[outcome.to_dict() for outcome in outcomes])


def is_over_budget(counts: Counts, *, error_budget: float) -> bool:
    """Returns whether the share of images in error is above the budget."""
    return counts.num_errors > error_budget * counts.images


def _exit_code(plan: Plan, stats: RunStats, *, error_budget: float, was_stopped: bool) -> ExitCode:
    if is_over_budget(stats.counts, error_budget=error_budget):
        return ExitCode.BUDGET_EXCEEDED
    if was_stopped or plan.out_of_reach or stats.units_over < len(plan.units):
        return ExitCode.TRY_AGAIN
    return ExitCode.DONE_WITH_ERRORS if stats.counts.num_errors else ExitCode.DONE


def run_summary(report: Report, *, report_file: str) -> str:
    """Returns the report in lines for people: the results, the problems, the next step."""
    lines = []
    if report.units_done_before:
        lines.append(f"units of images that earlier runs labelled: {report.units_done_before:,}")
    rate = report.images_per_second
    lines.append(
        f"labelled {count(report.images, 'image')} with {count(report.segments, 'segment')} "
        f"in {duration(report.seconds)}"
        + (f", {rate:.3g} images/s after the start" if rate else "")
    )
    for name, number in report.errors.items():
        example = report.error_examples[name][0]["message"]
        lines.append(f"  {number:,} × {name}, for example {example}")
    for reason, said in report.passed_over.items():
        example = said["examples"][0]
        lines.append(f"skipped {count(said['count'], 'file')} ({reason}), for example {example}")
    if report.files_named_twice:
        lines.append(
            f"files that the corpus names twice, labelled once: {report.files_named_twice:,}"
        )
    if report.storage_retries:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in report.storage_retries.items())
        waited = duration(report.storage_wait_seconds)
        lines.append(f"storage requests that were repeated: {kinds}; they waited {waited} in total")
    if report.faults:
        reason = next(iter(report.faults.values()))
        lines.append(f"units not done: {report.units_undone:,}, for example: {reason}")
    for gpu in report.gpus_left_alone:
        uuid = f" ({gpu['uuid']})" if gpu["uuid"] else ""
        lines.append(
            f"GPU {gpu['gpu']}{uuid} of node {gpu['node']} failed {gpu['failures']} times and was "
            f"left alone: {gpu['error']}; look at nvidia-smi and dmesg there, or take it out of "
            "the cluster"
        )
    if report.files_out_of_reach:
        lines.append(
            "files that the storage could not look up, left for another run: "
            f"{report.files_out_of_reach:,}, for example: {report.files_out_of_reach_examples[0]}"
        )
    if report.files_gone:
        lines.append(
            "files that were labelled before and do not exist now (the table keeps their rows): "
            f"{report.files_gone:,}, for example {report.files_gone_example}"
        )
    if report.units_elsewhere:
        lines.append(f"units that another run did at the same time: {report.units_elsewhere:,}")
    if report.images_tried_again:
        lines.append(f"images in error that were tried again: {report.images_tried_again:,}")
    if report.files_waiting:
        lines.append(
            f"files that may be incomplete still, left for another run: {report.files_waiting:,}"
        )
    if report.units_left:
        lines.append(f"units left for another run because of the deadline: {report.units_left:,}")
    lines += expectation_lines(report)
    lines.append(_advice(report))
    lines.append(f"table: {report.table}")
    if report.segments:
        lines.append(f"to look at it: maskformer gallery {shlex.quote(report.table)}")
    lines.append(f"report: {report_file}")
    return "\n".join(lines)


def expectation_lines(report: Report) -> list[str]:
    """Returns a line for each rule of `--expect`."""
    return [Outcome.of(said).line for said in report.expectations]


def _advice(report: Report) -> str:
    return {
        ExitCode.DONE: "done",
        ExitCode.DONE_WITH_ERRORS: _advice_with_errors(report),
        ExitCode.BUDGET_EXCEEDED: (
            f"{report.images_in_error:,} of {report.images:,} images are in error, more than "
            "--error_budget allows; the table keeps the finished units. Look at the errors, then "
            "run the same command again"
        ),
        ExitCode.TRY_AGAIN: "not finished; run the same command again to continue",
    }[ExitCode(report.exit_code)]


def _advice_with_errors(report: Report) -> str:
    parts = ["done"]
    if report.images_in_error:
        parts.append("images in error have a row with status=error")
    if not all(said["is_met"] for said in report.expectations):
        parts.append("not all is as --expect says; look at some images before you use the rows")
    return "; ".join(parts)
