#!/usr/bin/env python
"""Trains a model on labelled images, on as many workers as there are.

    jobs/finetune.py --model FOLDER_OR_HUB_ID --dataset URI --output FOLDER --validation URI

The door for `ray job submit` and schedulers: the same as `maskformer train`.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.running import run_job


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage, wrong data or a loss that is not finite, 75 try again."""
    return run_job("train", prog="jobs/finetune.py")


if __name__ == "__main__":
    sys.exit(main())
