#!/usr/bin/env python
"""Judges a model, or a segment table, by labelled images.

    jobs/evaluate.py --model FOLDER_OR_HUB_ID --dataset URI --task semantic --output FOLDER

The door for `ray job submit` and schedulers: the same as `maskformer evaluate`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage or wrong data, 75 try again."""
    return run_job("evaluate", prog="jobs/evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
