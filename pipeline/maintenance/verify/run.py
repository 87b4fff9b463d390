"""Checks whether rows, masks, files, plans and reports of a table agree with each other.

    maskformer verify TABLE

It reads everything and writes nothing; runs can work at the same time.
"""

import json
import os
from dataclasses import asdict
from typing import Any

from pipeline.maintenance.progress import ProgressLines
from pipeline.maintenance.settings import VerifySettings
from pipeline.maintenance.verify.findings import RULES, Findings
from pipeline.maintenance.verify.tables import VerifyReport, verify_table
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.progress import duration
from pipeline.runtime.settings import Settings, as_wrong_usage
from pipeline.runtime.wording import count
from pipeline.storage import Storage
from pipeline.table.store import TableStore


def verify(settings: Settings) -> int:
    """Verifies a table and prints what was found; gives 0 sound, 1 not sound, 3 not finished.

    Raises:
        WrongUsage: there is no such table, or it cannot be read as one.
        StorageFault: the storage failed.
    """
    given = settings.of(VerifySettings)
    with as_wrong_usage():
        report = verify_table(
            TableStore(given.table, settings.of(Storage).with_environment()),
            sample=given.sample,
            num_threads=given.num_threads or os.cpu_count() or 1,
            most_examples=given.examples,
            reviews=given.reviews,
            on_images=ProgressLines("images").advance,
        )
    print(json.dumps(as_json(report), indent=1) if given.json else as_text(report))
    return exit_code(report)


def exit_code(report: VerifyReport) -> int:
    """Returns the code of a sound table, of one that breaks a rule, or of one with work to do."""
    if report.findings.total:
        return ExitCode.NOT_SOUND
    return ExitCode.DONE_WITH_ERRORS if report.undone else ExitCode.DONE


def as_json(report: VerifyReport) -> dict[str, Any]:
    """Returns the report for programs: counts, and each broken rule with examples."""
    findings = report.findings
    return {
        "sound": not findings.total,
        "images": report.num_images,
        "segments": report.num_segments,
        "units": report.num_units,
        "rles": report.num_rles,
        "revisions": report.num_revisions,
        "seconds": round(report.seconds, 2),
        "findings": {
            rule: {
                "must_hold": RULES[rule],
                "count": findings.counts[rule],
                "examples": [asdict(example) for example in findings.examples[rule]],
            }
            for rule in _in_order(findings)
        },
        "undone_units": len(report.undone),
        "undone_examples": list(report.undone[:5]),
        "notices": list(report.notices),
    }


def as_text(report: VerifyReport) -> str:
    """Returns the report for people: each broken rule with examples, and a summary."""
    findings = report.findings
    lines = []
    for rule in _in_order(findings):
        lines.append(f"{findings.counts[rule]:,} × {rule}: {RULES[rule]}")
        lines += [f"  {each.place}: {each.found}" for each in findings.examples[rule]]
    lines += [f"notice: {notice}" for notice in report.notices]
    if report.undone:
        lines.append(
            f"planned units that are not done: {len(report.undone):,}, for example "
            f"{report.undone[0]}; run the labelling again to finish them"
        )
    broken = len(findings.counts)
    state = (
        f"not sound, findings: {findings.total:,}, broken rules: {broken}" if broken else "sound"
    )
    rate = report.num_images / max(report.seconds, 1e-9)
    masks = count(report.num_rles, "mask")
    took = f"{duration(report.seconds)}, {rate:,.0f} images/s, {masks} decoded"
    counted = [
        count(report.num_images, "image"),
        count(report.num_segments, "segment"),
        count(report.num_units, "unit"),
        *([count(report.num_revisions, "revision")] if report.num_revisions else []),
    ]
    lines.append(f"{', '.join(counted)}: {state} ({took})")
    return "\n".join(lines)


def _in_order(findings: Findings) -> list[str]:
    return [rule for rule in RULES if rule in findings.counts]
