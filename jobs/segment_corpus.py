#!/usr/bin/env python
"""Segments every image of a corpus into a table.

    jobs/segment_corpus.py --corpus URI --table URI --model FOLDER_OR_HUB_ID

Run it again after whatever happened: what is done is skipped, the rest is done, each image once.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.labelling.run import PARTS, label_corpus
from pipeline.runtime.settings import WrongUsage, parse


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage, 3 done with images in error, 4 too many of them, 75 try
    again."""
    try:
        settings = parse(PARTS, description=__doc__ or "")
    except WrongUsage as error:
        print(f"segment_corpus: {error}", file=sys.stderr)
        return 2
    return label_corpus(settings)


if __name__ == "__main__":
    sys.exit(main())
