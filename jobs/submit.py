#!/usr/bin/env python
"""Submits a command to a Ray cluster under an id, once, and ends as it ends.

    jobs/submit.py --submission_id ID -- jobs/label_nightly.py --config FILE

The door for `ray job submit` and schedulers: the same as `maskformer submit`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: those of the job, but 0 for 3 as well; 75 where the cluster is away; 143 where
    somebody stopped it."""
    return run_job("submit", prog="jobs/submit.py")


if __name__ == "__main__":
    sys.exit(main())
