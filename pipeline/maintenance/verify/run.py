"""Says whether a table is sound: rows, run lengths, files, plans and reports against each other.

    maskformer verify TABLE

Reads everything and writes nothing; runs may go on beside it.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from pipeline.maintenance.settings import VerifySettings
from pipeline.maintenance.verify.findings import RULES, Findings
from pipeline.maintenance.verify.tables import VerifyReport, verify_table
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import duration
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.storage import Storage
from pipeline.table.store import TableStore

NOT_SOUND = 1
NOT_FINISHED = 3
"""Exit codes beside those of jobs: a rule is broken; sound, but planned units are not done."""

_LINE_EVERY_SECONDS = 10.0


def run(settings: Settings) -> int:
    """Verifies a table and prints what was found; gives 0 sound, 1 not sound, 3 not finished.

    Raises:
        WrongUsage: there is no such table, or it cannot be read as one.
        StorageFault: the storage failed.
    """
    given = settings.of(VerifySettings)
    with as_wrong_usage():
        verdict = verify_table(
            TableStore(given.table, settings.of(Storage).with_environment()),
            sample=given.sample,
            num_threads=given.num_threads or os.cpu_count() or 1,
            most_examples=given.examples,
            on_images=_Progress().advance,
        )
    print(json.dumps(as_json(verdict), indent=1) if given.json else as_text(verdict))
    return exit_code(verdict)


def exit_code(verdict: VerifyReport) -> int:
    """What a scheduler is told."""
    if verdict.findings.total:
        return NOT_SOUND
    return NOT_FINISHED if verdict.undone else ExitCode.DONE


def as_json(verdict: VerifyReport) -> dict[str, Any]:
    """The verdict for programs: counts, and each broken rule with examples."""
    findings = verdict.findings
    return {
        "sound": not findings.total,
        "images": verdict.num_images,
        "segments": verdict.num_segments,
        "units": verdict.num_units,
        "rles": verdict.num_rles,
        "seconds": round(verdict.seconds, 2),
        "findings": {
            rule: {
                "must_hold": RULES[rule],
                "count": findings.counts[rule],
                "examples": [asdict(example) for example in findings.examples[rule]],
            }
            for rule in _in_order(findings)
        },
        "undone_units": len(verdict.undone),
        "undone_examples": list(verdict.undone[:5]),
        "notices": list(verdict.notices),
    }


def as_text(verdict: VerifyReport) -> str:
    """The verdict for people: a line per broken rule, its first places, and the sum."""
    findings = verdict.findings
    lines = []
    for rule in _in_order(findings):
        lines.append(f"{findings.counts[rule]:,} × {rule}: {RULES[rule]}")
        lines += [f"  {each.place}: {each.found}" for each in findings.examples[rule]]
    lines += [f"notice: {notice}" for notice in verdict.notices]
    if verdict.undone:
        lines.append(
            f"{len(verdict.undone):,} planned units are not done, as {verdict.undone[0]}; run the "
            "labelling again to go on"
        )
    broken = len(findings.counts)
    state = f"{findings.total:,} findings against {broken} rules" if broken else "sound"
    rate = verdict.num_images / max(verdict.seconds, 1e-9)
    took = f"{duration(verdict.seconds)}, {rate:,.0f} images/s, {verdict.num_rles:,} rles"
    lines.append(
        f"{verdict.num_images:,} images, {verdict.num_segments:,} segments, "
        f"{verdict.num_units:,} units: {state} ({took})"
    )
    return "\n".join(lines)


def _in_order(findings: Findings) -> list[str]:
    return [rule for rule in RULES if rule in findings.counts]


class _Progress:
    """A line now and then, where it takes long."""

    def __init__(self) -> None:
        self._images = 0
        self._said = time.monotonic()

    def advance(self, images: int) -> None:
        self._images += images
        if time.monotonic() - self._said >= _LINE_EVERY_SECONDS:
            self._said = time.monotonic()
            print(f"{self._images:,} images", file=sys.stderr, flush=True)
