#!/usr/bin/env python
"""Segments scenes that code draws, with the sample model, and shows what came out.

    make demo

Writes demo/corpus (tar shards, with the truth), demo/table (the segment table), demo/evaluation and
demo/contact_sheet.png.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.demo.demo import SAMPLE_MODEL, most_frequent_labels, write_corpus
from pipeline.table.drawing import contact_sheet
from pipeline.table.store import images

OUTPUT = ROOT / "demo"
CORPUS, TABLE, EVALUATION = (str(OUTPUT / name) for name in ("corpus", "table", "evaluation"))


def main() -> int:
    """Exit codes are those of the jobs that it starts."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    write_corpus(Path(CORPUS))
    code = _run(
        "segment_corpus", "--corpus", CORPUS, "--table", TABLE, "--model", str(SAMPLE_MODEL)
    )
    if code:
        return code
    print(f"\nthe most frequent labels:\n\n{most_frequent_labels(TABLE, count=10)}\n")
    code = _run(
        "evaluate", "--table", TABLE, "--dataset", CORPUS, "--task", "panoptic",
        "--output", EVALUATION,
    )  # fmt: skip
    ids = images(TABLE).to_table(columns=["image_id"])["image_id"].to_pylist()
    sheet = OUTPUT / "contact_sheet.png"
    contact_sheet(TABLE, ids[:: max(1, len(ids) // 12)][:12]).save(sheet)
    print(f"\nlook at {os.path.relpath(sheet)}")
    return code


def _run(job: str, *options: str) -> int:
    command = [str(ROOT / "jobs" / f"{job}.py"), *options]
    print("$", " ".join(word.removeprefix(f"{ROOT}/") for word in command), flush=True)
    return subprocess.run([sys.executable, *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
