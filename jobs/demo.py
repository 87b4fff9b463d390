#!/usr/bin/env python
"""Segments a small corpus on this machine and shows what came out.

    make demo

Writes demo/corpus (tar shards), demo/table (the segment table) and demo/contact_sheet.png.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.demo import DemoInput, drawn_input, most_frequent_labels, photographs
from pipeline.drawing import contact_sheet
from pipeline.table import images

OUTPUT = ROOT / "demo"
SHARED = ROOT.parent / "shared"


def main() -> int:
    """Exit codes are those of jobs/segment_corpus.py."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    demo = photographs(SHARED, OUTPUT) if SHARED.is_dir() else drawn_input(OUTPUT)
    print(f"{demo.description}\n")
    code = _segment(demo)
    if code not in (0, 3):
        return code
    table = str(OUTPUT / "table")
    print("\nthe most frequent labels:\n")
    print(most_frequent_labels(table, count=10))
    ids = images(table).to_table(columns=["image_id"])["image_id"].to_pylist()
    sheet = OUTPUT / "contact_sheet.png"
    contact_sheet(table, ids[:: max(1, len(ids) // 9)][:9]).save(sheet)
    print(f"\nlook at {os.path.relpath(sheet)}")
    return code


def _segment(demo: DemoInput) -> int:
    command = [
        str(ROOT / "jobs" / "segment_corpus.py"),
        "--corpus", str(OUTPUT / "corpus"),
        "--table", str(OUTPUT / "table"),
        "--model", demo.model,
        *demo.options,
    ]  # fmt: skip
    shown = " ".join(
        str(Path(w).relative_to(ROOT)) if w.startswith(str(ROOT)) else w for w in command
    )
    print(f"$ {shown}")
    return subprocess.run([sys.executable, *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
