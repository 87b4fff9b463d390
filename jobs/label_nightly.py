#!/usr/bin/env python
"""Labels what came into a corpus since the last night, and reports.

    jobs/label_nightly.py --config configs/nightly/NAME.yaml

For a scheduler: one run on a table at a time, over by its deadline; what it leaves, the next takes.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.nightly.run import PARTS, label_nightly
from pipeline.runtime.settings import WrongUsage, parse


def main() -> int:
    """Exit codes: 0 done, or done as far as the deadline allowed, 2 wrong usage, 3 done with images
    in error, 4 too many of them, 75 try again, as when another run is at it."""
    try:
        settings = parse(PARTS, description=__doc__ or "")
    except WrongUsage as error:
        print(f"label_nightly: {error}", file=sys.stderr)
        return 2
    return label_nightly(settings)


if __name__ == "__main__":
    sys.exit(main())
