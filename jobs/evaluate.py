#!/usr/bin/env python
"""Judges a model, or a segment table, by labelled images.

    jobs/evaluate.py --model FOLDER_OR_HUB_ID --dataset URI --task semantic --output FOLDER
    jobs/evaluate.py --table URI --dataset URI --task panoptic --output FOLDER

Prints the metrics, and writes metrics.json, a confusion matrix and the worst images to look at.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.evaluation.run import PARTS, evaluate
from pipeline.runtime.settings import WrongUsage, parse


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage or wrong data, 75 try again."""
    try:
        settings = parse(PARTS, description=__doc__ or "")
    except WrongUsage as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    return evaluate(settings)


if __name__ == "__main__":
    sys.exit(main())
