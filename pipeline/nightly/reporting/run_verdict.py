"""The verdict: whether anybody has to act on a run, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.labelling.report import Report
from pipeline.nightly.reporting.drift import Drift
from pipeline.runtime.exit_codes import ExitCode


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """One line for the one on call."""

    must_act: bool
    text: str


def judge(report: Report, drifts: Sequence[Drift]) -> RunVerdict:
    """Failures first, then drift; a run that ended well says so."""
    code = report.exit_code
    if code == ExitCode.BUDGET_EXCEEDED:
        worst = next(iter(report.errors.items()), ("no class", 0))
        return RunVerdict(
            must_act=True,
            text=f"{report.images_in_error:,} of {report.images:,} images are in error, most as "
            f"{worst[0]} ({worst[1]:,}), which is more than the error budget. What is good was "
            "kept. Look at the errors below; mend the sources or raise error_budget, then run the "
            "same command again.",
        )
    if code == ExitCode.TRY_AGAIN:
        return RunVerdict(
            must_act=True,
            text=f"{_undone(report)}. "
            "Run the same command again, if no scheduler does: it goes on where this run ended.",
        )
    if code not in (ExitCode.DONE, ExitCode.DONE_WITH_ERRORS):
        return RunVerdict(must_act=True, text=f"The run ended with exit code {code}; see its log.")
    alarms = [drift for drift in drifts if drift.level == "alarm"]
    if alarms:
        return RunVerdict(
            must_act=True,
            text=f"All is labelled, but the images are not those of earlier runs: "
            f"{'; '.join(map(in_words, alarms))}. Look at the pictures below: if the corpus "
            "changed, there is nothing to do; if not, look for what changed in the sources "
            "before you trust these rows.",
        )
    watched = [drift for drift in drifts if drift.level == "watch"]
    errors = left = ""
    if report.units_left:
        left = (
            f" {report.units_left:,} of {report.units_planned:,} units are left for the next run: "
            "the deadline came."
        )
    if report.images_in_error:
        errors = f" {report.images_in_error:,} images are in error, within the budget."
    moved = f" Worth a look: {'; '.join(map(in_words, watched))}." if watched else ""
    return RunVerdict(must_act=False, text=f"Nothing to do.{left}{errors}{moved}")


def _undone(report: Report) -> str:
    """What a run left undone, and why."""
    if report.files_out_of_reach and not report.units_undone:
        reason = report.files_out_of_reach_examples[0]
        return f"{report.files_out_of_reach:,} files are out of reach: {_short(reason)}"
    reason = next(iter(report.faults.values()), "the run was stopped")
    units = f"{report.units_undone:,} of {report.units_planned:,} units"
    return f"{units} are not done: {_short(reason)}"


def in_words(drift: Drift) -> str:
    """Which measure has moved, how far, and what in it most."""
    name = drift.measure.replace("_", " ")
    text = f"{name} moved by {drift.index:.2f}"
    if drift.changes:
        most = drift.changes[0]
        text += f" ({_short(most.what)}: {most.before:.1%} before, {most.now:.1%} now)"
    return text


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
