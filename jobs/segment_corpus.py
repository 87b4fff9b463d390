#!/usr/bin/env python
"""Segments every image of a corpus into a table.

    jobs/segment_corpus.py --corpus URI --table URI --model FOLDER_OR_HUB_ID

The door for `ray job submit` and schedulers: the same as `maskformer label`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage, 3 done with images in error, 4 too many of them, 75 try
    again."""
    return run_job("label", prog="jobs/segment_corpus.py")


if __name__ == "__main__":
    sys.exit(main())
