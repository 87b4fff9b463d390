"""Runs nightly labelling: labels the images that are new since the last run, unattended.

A nightly run is a labelling run (`labelling/run.py`) behind a lock. It leaves out files that may
still be written, adds images to try again, ends by its deadline and writes a report.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.driving.deadline import moment
from pipeline.labelling.report import Report
from pipeline.labelling.run import SourceFilter, label, new_run_id
from pipeline.labelling.settings import LabelSettings
from pipeline.nightly.lock import LockHeld, holding_lock
from pipeline.nightly.reporting import publish_report
from pipeline.nightly.reporting.metrics import RunMetrics
from pipeline.nightly.reporting.webhook import send
from pipeline.nightly.retrying import images_to_try_again
from pipeline.nightly.settings import NightlySettings, ReportSettings
from pipeline.nightly.settling import Settling
from pipeline.planning.planner import FailedImage, Plan
from pipeline.runtime.run_stats import RunStats
from pipeline.runtime.settings import Settings, WrongUsage
from pipeline.storage import Storage
from pipeline.table.store import TableStore


def label_nightly(settings: Settings) -> int:
    """Labels what is new and reports; tells the webhook of a run that ends without a report.

    Raises:
        LockHeld: another run is at work on the table.
        WrongUsage: settings, corpus, table or model are no good.
        StorageFault, ConnectionError: storage or cluster failed.
    """
    labelling = settings.of(LabelSettings)
    try:
        return _locked(settings)
    except LockHeld:
        raise
    except Exception as error:
        if not labelling.dry_run:
            text = f"Nightly labelling into {labelling.table} ended without a report: {error}"
            line = send(text, settings=settings.of(ReportSettings))
            if line is not None:
                print(line, file=sys.stderr)
        raise


def _locked(settings: Settings) -> int:
    nightly, labelling = settings.of(NightlySettings), settings.of(LabelSettings)
    # From here on a scheduler's SIGTERM releases the lock, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_id = new_run_id()
    table = _table(settings)
    if labelling.dry_run:
        return _label(settings, table=table, run_id=run_id)
    with holding_lock(
        table,
        run_id=run_id,
        heartbeat_seconds=nightly.heartbeat_seconds,
        stale_seconds=nightly.stale_seconds,
    ):
        return _label(settings, table=table, run_id=run_id)


def _label(settings: Settings, *, table: TableStore, run_id: str) -> int:
    reporter = _Reporter(settings, table=table.uri, run_id=run_id)
    return label(
        settings,
        run_id=run_id,
        choice=_choice(settings, table=table),
        publish=reporter.publish,
        watch=reporter.watch,
    )


@dataclass
class _Reporter:
    """Exports metrics while a run works, and writes its report at the end."""

    settings: Settings
    _: KW_ONLY
    table: str
    run_id: str
    metrics: RunMetrics | None = None
    """None before the run has a plan."""

    def watch(self, plan: Plan, stats: RunStats) -> Callable[[], None]:
        self.metrics = RunMetrics(stats, table=self.table, units_planned=len(plan.units))
        return self.metrics.update

    def publish(self, table: TableStore, report: Report) -> Sequence[str]:
        return publish_report(
            table,
            self.run_id,
            report,
            self.settings.of(ReportSettings),
            reading=self.settings.of(ReadSettings),
            metrics=self.metrics,
        )


def _choice(settings: Settings, *, table: TableStore) -> SourceFilter:
    nightly = settings.of(NightlySettings)

    def failed() -> Sequence[FailedImage]:
        return images_to_try_again(
            table, error_classes=nightly.retry_errors, max_attempts=nightly.max_attempts
        )

    try:
        settling = Settling(
            settings.of(LabelSettings).corpus,
            storage=table.storage,
            minutes=nightly.settle_minutes,
            success_marker=nightly.success_marker,
        )
    except ValueError as error:
        raise WrongUsage(str(error)) from error
    return SourceFilter(waits=settling, failed=failed, deadline=_deadline(nightly))


def _table(settings: Settings) -> TableStore:
    try:
        storage = settings.of(Storage).with_environment()
        return TableStore(settings.of(LabelSettings).table, storage)
    except ValueError as error:
        raise WrongUsage(str(error)) from error


def _deadline(nightly: NightlySettings) -> float | None:
    if nightly.deadline is None:
        return None
    return moment(nightly.deadline, now=datetime.now()).timestamp()
