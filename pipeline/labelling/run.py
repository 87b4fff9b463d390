"""A run: from settings to a report, whatever happens in between.

What `jobs/` start. The order keeps promises: everything that can be wrong with the settings is
found before a process starts, the plan is written before work, the report after it.
"""

import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskformer import check_shapes
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import clear_leftovers
from pipeline.labelling.flow import Work, run_units
from pipeline.labelling.forecast import forecast
from pipeline.labelling.model import fused_lines, read_model, table_spec, with_stuff
from pipeline.labelling.report import ExitCode, Report, make_report, over_budget, summary
from pipeline.labelling.settings import LabelSettings, SegmentSettings
from pipeline.planning.planner import (
    FailedImage,
    Plan,
    UnitSettings,
    plan_corpus,
    settle_plan,
)
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import connect
from pipeline.runtime.progress import ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.settings import Settings, WrongUsage
from pipeline.storage import File, Storage, StorageFault
from pipeline.storage.faults import can_never_work
from pipeline.storage.retries import take_retries
from pipeline.table.plans import report_file
from pipeline.table.store import TableStore

_FEWEST_IMAGES_TO_JUDGE = 1000


@dataclass(frozen=True, kw_only=True)
class SourceFilter:
    """What of a corpus a run takes on, and until when; without more, all that is new."""

    waits: Callable[[File], bool] = lambda file: False
    """Whether a file is left for another run."""
    failed: Callable[[], Sequence[FailedImage]] = tuple
    """Images to try again, found anew for each plan."""
    deadline: float | None = None
    """Seconds since the epoch: no unit begins that would not be done by then."""


Publish = Callable[[TableStore, Report], Sequence[str]]
"""Writes a report into the table; lines for people, printed after the summary."""


Watch = Callable[[Plan, RunStats], Callable[[], None]]
"""Is called when work begins, and what it gives whenever something was done."""


def write_report(table: TableStore, report: Report) -> Sequence[str]:
    """`report.json` and no more."""
    table.storage.write(report_file(table, report.run_id), report.to_json().encode())
    return ()


def new_run_id() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def label_corpus(settings: Settings) -> int:
    """Labels what the table lacks of the corpus; prints what it does; gives the exit code."""
    return ended(lambda: label(settings, run_id=new_run_id()))


def ended(run: Callable[[], int]) -> int:
    """Runs; what ends a run early becomes one line and an exit code."""
    try:
        return run()
    except WrongUsage as error:
        return fail(str(error), ExitCode.WRONG_USAGE)
    except (StorageFault, ConnectionError) as error:
        if can_never_work(error):
            return fail(str(error), ExitCode.WRONG_USAGE)
        return fail(f"{error}; run the same command again", ExitCode.TRY_AGAIN)
    except KeyboardInterrupt:
        return fail("stopped; run the same command again to go on", ExitCode.TRY_AGAIN)


def fail(message: str, code: ExitCode) -> int:
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr)
    return code


def label(
    settings: Settings,
    *,
    run_id: str,
    choice: SourceFilter | None = None,
    publish: Publish = write_report,
    watch: Watch = lambda plan, stats: lambda: None,
) -> int:
    """Labels what is chosen of the corpus; see `ended` for what it raises."""
    began = time.monotonic()
    label, choice = settings.of(LabelSettings), choice or SourceFilter()
    work, plan = _prepare(settings, run_id=run_id, choice=choice)
    for line in (*plan.notices, _opening(plan, label)):
        print(line, file=sys.stderr, flush=True)
    if label.dry_run:
        connect(work.actors.ray_address, dashboard=work.actors.dashboard)
        print(forecast(plan, work=work))
        return ExitCode.DONE
    stats, was_stopped = RunStats(), False
    if plan.units:
        connect(work.actors.ray_address, dashboard=work.actors.dashboard)
        show = watch(plan, stats)
        was_stopped = _work(
            plan, work=work, stats=stats, show=show, error_budget=label.error_budget
        )
    stats.add_retries(take_retries())
    report = make_report(
        run_id=work.run_id,
        table=work.table.uri,
        corpus=label.corpus,
        plan=plan,
        stats=stats,
        seconds=time.monotonic() - began,
        error_budget=label.error_budget,
        was_stopped=was_stopped,
    )
    clear_leftovers(work.table)
    lines = publish(work.table, report)
    print(summary(report, report_file=report_file(work.table, work.run_id)))
    for line in lines:
        print(line)
    return report.exit_code


def _prepare(settings: Settings, *, run_id: str, choice: SourceFilter) -> tuple[Work, Plan]:
    """All that can be wrong with the settings comes out here, before a process starts."""
    label, segmenting = settings.of(LabelSettings), settings.of(SegmentSettings)
    reading = settings.of(ReadSettings)
    try:
        storage = settings.of(Storage).with_environment()
        model = read_model(label.model, resize_rule=segmenting.resize_rule)
        table = TableStore(label.table, storage)
        segmenting = with_stuff(segmenting, model=model, there=table.spec())
        spec = table_spec(model, segmenting=segmenting, reading=reading)
        table.check(spec)

        def plan_now() -> Plan:
            return plan_corpus(
                label.corpus,
                table=table,
                spec=spec,
                reading=reading,
                units=settings.of(UnitSettings),
                limit=label.limit,
                waits=choice.waits,
                failed=choice.failed(),
                is_trial=label.dry_run,
            )

        plan = plan_now()
        if table.spec() is None:
            # Seconds, for it needs torch: once for a table, which is bound to its model.
            check_shapes(model.folder)
        if not label.dry_run:
            table.create(spec)
            storage.write(table.file("_runs", run_id, "settings.yaml"), settings.to_yaml().encode())
            plan = settle_plan(plan, plan_again=plan_now, table=table, run_id=run_id)
    except ValueError as error:
        raise WrongUsage(str(error)) from error
    for line in fused_lines(segmenting, model=model):
        print(line, file=sys.stderr, flush=True)
    work = Work(
        table=table,
        spec=spec,
        run_id=run_id,
        reading=reading,
        segmenting=segmenting,
        actors=settings.of(ActorSettings),
        processor=model.processor,
        model_files=model.files,
        deadline=choice.deadline,
    )
    return work, plan


def _work(
    plan: Plan, *, work: Work, stats: RunStats, show: Callable[[], None], error_budget: float
) -> bool:
    """Works on the plan; whether it was stopped before its end."""

    def goes_on() -> bool:
        show()
        early = stats.counts.images < _FEWEST_IMAGES_TO_JUDGE
        return early or not over_budget(stats.counts, error_budget=error_budget)

    # After Ray has set its own: a scheduler's SIGTERM is to end in a report, as Ctrl-C is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressDisplay(stats, plan):
        try:
            units = plan.units_in_turn(work.run_id)
            return run_units(units, work=work, stats=stats, on_progress=goes_on)
        except KeyboardInterrupt:
            return True


def _opening(plan: Plan, label: LabelSettings) -> str:
    done = f"; {_count(plan.done, 'unit')} done already" if plan.done else ""
    if not plan.units:
        return f"nothing to do at {label.corpus}{done}"
    images = "" if plan.num_images is None else f"{_count(plan.num_images, 'image')} in "
    units = _count(len(plan.units), "unit")
    return f"{images}{units}, {plan.num_bytes / 1e6:,.1f} MB, of {label.corpus}{done}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
