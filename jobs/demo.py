#!/usr/bin/env python
"""Labels scenes that code draws, corrects two, trains on them, compares and exports.

    jobs/demo.py --output FOLDER

The door for `ray job submit` and schedulers: the same as `maskformer demo`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage, 75 try again."""
    return run_job("demo", prog="jobs/demo.py")


if __name__ == "__main__":
    sys.exit(main())
