#!/usr/bin/env python
"""Labels what is new in a corpus, until a deadline, and reports.

    jobs/label_nightly.py --config configs/nightly/NAME.yaml

The door for `ray job submit` and schedulers: the same as `maskformer nightly`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: 0 done, or done as far as the deadline allowed, 2 wrong usage, 3 done with images
    in error, 4 too many of them, 75 try again, as when another run is at work."""
    return run_job("nightly", prog="jobs/label_nightly.py")


if __name__ == "__main__":
    sys.exit(main())
