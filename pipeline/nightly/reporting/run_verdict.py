"""Decides whether somebody has to act on a run, and says what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.labelling.expectations import Outcome
from pipeline.labelling.report import Report
from pipeline.nightly.reporting.drift import Drift
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.wording import count


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """The first line of a report, for the person on call."""

    must_act: bool
    text: str

    @property
    def headline(self) -> str:
        return "Action needed" if self.must_act else "No action needed"

    @property
    def line(self) -> str:
        return f"{self.headline}. {self.text}"


def judge(report: Report, drifts: Sequence[Drift]) -> RunVerdict:
    """Looks at failures first, then at drift."""
    code = report.exit_code
    if code == ExitCode.BUDGET_EXCEEDED:
        name, frequency = next(iter(report.errors.items()), ("no class", 0))
        return RunVerdict(
            must_act=True,
            text=f"{report.images_in_error:,} of {count(report.images, 'image')} failed, more "
            f"than the error budget allows; the most frequent error is {name} ({frequency:,}). All "
            "good images were kept. Look at the errors below, correct the sources or raise "
            "error_budget, then run the same command again.",
        )
    if code == ExitCode.TRY_AGAIN:
        return RunVerdict(
            must_act=True,
            text=f"{_undone(report)}. Unless a scheduler does so, run the same command again: it "
            "continues where this run ended.",
        )
    if code not in (ExitCode.DONE, ExitCode.DONE_WITH_ERRORS):
        return RunVerdict(must_act=True, text=f"The run ended with exit code {code}; see its log.")
    if unmet := [said for said in report.expectations if not said["is_met"]]:
        lines = "; ".join(Outcome.of(said).line for said in unmet)
        return RunVerdict(
            must_act=True,
            text=f"All images are labelled, but {lines}. Look at the pictures below before you use "
            "these rows; if they are right, change the rules (--expect).",
        )
    if alarms := [in_words(drift) for drift in drifts if drift.level == "alarm"]:
        return RunVerdict(
            must_act=True,
            text="All images are labelled, but they differ from those of earlier runs: "
            f"{'; '.join(alarms)}. Look at the pictures below. If the corpus changed, nothing is "
            "wrong; if it did not, find out what changed in the sources before you use these rows.",
        )
    good = report.images - report.images_in_error
    sentences = []
    if report.images:
        sentences.append(f"{count(good, 'image')} labelled.")
    elif not report.units_left:
        sentences.append("There were no new images.")
    if report.units_left:
        sentences.append(
            f"{report.units_left:,} of {count(report.units_planned, 'unit')} were not begun "
            "before the deadline; the next run labels them."
        )
    if report.images_in_error:
        failed = count(report.images_in_error, "image")
        sentences.append(f"{failed} failed, within the error budget.")
    if watched := [in_words(drift) for drift in drifts if drift.level == "watch"]:
        sentences.append(f"Worth a look: {'; '.join(watched)}.")
    return RunVerdict(must_act=False, text=" ".join(sentences))


def in_words(drift: Drift) -> str:
    """Names a measure that changed, its index, and the label or range that changed most."""
    name = drift.measure.replace("_", " ")
    if not drift.changes:
        return f"{name} changed (index {drift.index:.2f})"
    most = drift.changes[0]
    return (
        f"{name} changed (index {drift.index:.2f}), most of all {_short(most.what)}: "
        f"{most.before:.1%} before, {most.now:.1%} now"
    )


def _undone(report: Report) -> str:
    """Says what a run left undone, and the first reason."""
    if report.files_out_of_reach and not report.units_undone:
        files = count(report.files_out_of_reach, "file")
        return f"Storage could not read {files}: {_short(report.files_out_of_reach_examples[0])}"
    reason = next(iter(report.faults.values()), "the run was stopped")
    units = count(report.units_planned, "unit")
    verb = "is" if report.units_undone == 1 else "are"
    return f"{report.units_undone:,} of {units} {verb} not done: {_short(reason)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"
