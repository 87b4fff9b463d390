"""Runs a labelling job from its settings to its report.

`start.py` and the nightly run call it. Wrong settings are found before work starts; the plan is
written before the work, the report after it.
"""

import contextlib
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from maskformer import check_shapes
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.checked_models import check_once
from pipeline.labelling.commit import clear_leftovers
from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.local_children import MOST_IMAGES, LocalChildren, may_be_local
from pipeline.labelling.driving.local_executor import LocalExecutor
from pipeline.labelling.expectations import Rule, check_rules, read_rules
from pipeline.labelling.model import (
    actor_files,
    fused_lines,
    read_model,
    table_spec,
    with_stuff,
)
from pipeline.labelling.report import (
    Report,
    is_over_budget,
    report_run,
    run_summary,
    with_expectations,
)
from pipeline.labelling.settings import LabelSettings, SegmentSettings
from pipeline.planning.planner import (
    FailedImage,
    Plan,
    UnitSettings,
    plan_corpus,
    settle_plan,
)
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.machines import Machines
from pipeline.runtime.progress import ProgressDisplay
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.runtime.status_line import NO_STATUS, StatusLine
from pipeline.storage import File, Storage
from pipeline.storage.retries import take_retries
from pipeline.table.plans import report_file
from pipeline.table.store import TableStore

_FEWEST_IMAGES_TO_JUDGE = 1000


@dataclass(frozen=True, kw_only=True)
class SourceFilter:
    """Selects the sources that a run labels; by default all that are new."""

    waits: Callable[[File], bool] = lambda file: False
    """Returns whether a file is left for another run."""
    failed: Callable[[], Sequence[FailedImage]] = tuple
    """Returns the images to try again; called for each plan."""
    deadline: float | None = None
    """Seconds since the epoch: no unit begins that would not be done by then."""


Publish = Callable[[TableStore, Report], Sequence[str]]
"""Writes a report into the table. Returns lines to print after the summary."""


Watch = Callable[[Plan, RunStats], Callable[[], None]]
"""Called when work begins; what it returns is called after each step of the work."""


def write_report(table: TableStore, report: Report) -> Sequence[str]:
    """Writes `report.json`."""
    table.storage.write(report_file(table, report.run_id), report.to_json().encode())
    return ()


def new_run_id() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


def label(
    settings: Settings,
    *,
    run_id: str,
    choice: SourceFilter | None = None,
    publish: Publish = write_report,
    watch: Watch = lambda plan, stats: lambda: None,
    status: StatusLine = NO_STATUS,
    children: LocalChildren | None = None,
) -> int:
    """Labels the selected sources. Returns the exit code.

    Args:
        status: shows what is done until work begins.
        children: may have been started already, for a run that takes no cluster.

    Raises:
        WrongUsage: settings, corpus, table or model are wrong.
        StorageFault, ConnectionError: storage or cluster failed.
    """
    began = time.monotonic()
    label, choice = settings.of(LabelSettings), choice or SourceFilter()
    with contextlib.ExitStack() as stack:
        children = stack.enter_context(children or LocalChildren())
        if not may_be_local(settings):
            children = None
        status.show("reading the model and the corpus")
        prepared = _prepare(
            settings, run_id=run_id, choice=choice, children=children, status=status
        )
        job, plan = prepared.job, prepared.plan
        for line in (*plan.notices, _opening(plan, label)):
            status.say(line)
        if label.dry_run:
            status.show("starting Ray")
            _connect(job)
            status.show("timing the first images")
            text = _forecast(plan, job=job)
            status.end()
            print(text)
            return ExitCode.DONE
        stats, was_stopped = RunStats(), False
        if plan.units:
            executor = _local_executor(job, plan=plan, children=children, local=label.local)
            if executor is None:
                status.show("starting Ray")
                _connect(job)
            show = watch(plan, stats)
            status.end()
            was_stopped = _run_plan(
                plan,
                job=job,
                stats=stats,
                show=show,
                error_budget=label.error_budget,
                executor=executor,
            )
    status.end()
    stats.add_retries(take_retries())
    outcomes = check_rules(prepared.rules, table=job.table, run_id=job.run_id)
    report = report_run(
        run_id=job.run_id,
        table=job.table.uri,
        corpus=label.corpus,
        plan=plan,
        stats=stats,
        seconds=time.monotonic() - began,
        error_budget=label.error_budget,
        was_stopped=was_stopped,
    )
    report = with_expectations(report, outcomes)
    clear_leftovers(job.table)
    lines = publish(job.table, report)
    print(run_summary(report, report_file=report_file(job.table, job.run_id)))
    for line in lines:
        print(line)
    return report.exit_code


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A run that can begin."""

    job: LabellingJob
    plan: Plan
    rules: tuple[Rule, ...]
    """What is expected of its images."""


def _local_executor(
    job: LabellingJob, *, plan: Plan, children: LocalChildren | None, local: bool | None
) -> LocalExecutor | None:
    """Returns the executor of a run without a cluster; None where it takes one."""
    if children is None:
        return None
    num_images = sum(unit.about_images for unit in plan.units)
    if num_images > MOST_IMAGES and not local:
        children.end()
        return None
    with as_wrong_usage():
        job.segmenting.check_actors(actor_gpus=0)
    return LocalExecutor(job, children=children, num_images=num_images)


def _connect(job: LabellingJob) -> None:
    """Connects to the cluster.

    Raises:
        WrongUsage: no actor would have the GPU that the settings need.
        ConnectionError: no cluster answers.
    """
    # Loaded here: Ray takes a second, which a run without a cluster does without.
    from pipeline.runtime.cluster import connect

    connect(job.actors.ray_address, dashboard=job.actors.dashboard)
    actor_gpus = Machines.of_cluster(job.actors).actor_gpus
    with as_wrong_usage():
        job.segmenting.check_actors(actor_gpus=actor_gpus)
    if job.reading.decode == "gpu" and not actor_gpus:
        raise WrongUsage(
            "--decode gpu needs actors with a GPU (CUDA), and there is none here; a table made "
            "with it is continued where there is one"
        )


def _prepare(
    settings: Settings,
    *,
    run_id: str,
    choice: SourceFilter,
    children: LocalChildren | None,
    status: StatusLine,
) -> _Prepared:
    """Finds what is wrong with the settings, and plans, before work starts."""
    label, segmenting = settings.of(LabelSettings), settings.of(SegmentSettings)
    reading = settings.of(ReadSettings)
    try:
        storage = settings.of(Storage).with_environment()
        model = read_model(label.model, resize_rule=segmenting.resize_rule)
        rules: tuple[Rule, ...] = ()
        if label.expect is not None:
            rules = read_rules(label.expect, labels=model.labels, storage=storage)
        table = TableStore(label.table, storage)
        segmenting = with_stuff(segmenting, model=model, there=table.spec())
        spec = table_spec(model, segmenting=segmenting, reading=reading, there=table.spec())
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
            status.show("checking the model")
            check = check_shapes if children is None else children.check_model
            check_once(model.fingerprint, check=partial(check, model.folder))
        model_files = actor_files(model, segmenting=segmenting)
        if not label.dry_run:
            table.create(spec)
            spec = table.as_made(spec)
            storage.write(table.file("_runs", run_id, "settings.yaml"), settings.to_yaml().encode())
            plan = settle_plan(plan, plan_again=plan_now, table=table, run_id=run_id)
    except ValueError as error:
        raise WrongUsage(str(error)) from error
    was_given = settings.of(SegmentSettings).label_ids_to_fuse is not None
    for line in fused_lines(segmenting, model=model, was_given=was_given):
        status.say(line)
    job = LabellingJob(
        table=table,
        spec=spec,
        run_id=run_id,
        reading=reading,
        segmenting=segmenting,
        actors=settings.of(ActorSettings),
        processor=model.processor,
        model_files=model_files,
        deadline=choice.deadline,
    )
    return _Prepared(job=job, plan=plan, rules=rules)


def _run_plan(
    plan: Plan,
    *,
    job: LabellingJob,
    stats: RunStats,
    show: Callable[[], None],
    error_budget: float,
    executor: LocalExecutor | None,
) -> bool:
    """Labels the units of the plan. Returns whether it was stopped before its end."""

    def goes_on() -> bool:
        show()
        early = stats.counts.images < _FEWEST_IMAGES_TO_JUDGE
        return early or not is_over_budget(stats.counts, error_budget=error_budget)

    # Set after Ray's own handler: a scheduler's SIGTERM ends in a report, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressDisplay(stats, plan):
        try:
            units = plan.units_in_turn(job.run_id)
            return run_units(units, job=job, stats=stats, on_progress=goes_on, executor=executor)
        except KeyboardInterrupt:
            return True


def _forecast(plan: Plan, *, job: LabellingJob) -> str:
    from pipeline.labelling.forecast import forecast  # loads Ray

    return forecast(plan, job=job)


def _opening(plan: Plan, label: LabelSettings) -> str:
    done = f"; {_count(plan.done, 'unit')} of earlier runs" if plan.done else ""
    if not plan.units:
        return f"nothing to do at {label.corpus}" + (": labelled already" if done else "")
    images = "" if plan.num_images is None else f"{_count(plan.num_images, 'image')} in "
    units = _count(len(plan.units), "unit")
    return f"{images}{units}, {plan.num_bytes / 1e6:,.1f} MB, of {label.corpus}{done}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
