#!/usr/bin/env python
"""Submits a job to a Ray cluster under an id, once, and ends as the job ends.

    jobs/submit.py --submission_id label-nightly-2026-01-20 -- jobs/label_nightly.py --config FILE

Run it again after whatever happened: a run that goes on is watched to its end, one that is done is
left alone, and one that ended with 75 gets another attempt.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.nightly.submission import SubmitSettings, submit
from pipeline.runtime.settings import WrongUsage, parse


def main() -> int:
    """Exit codes: those of the job, but 0 for 3 as well; 75 where the cluster is away; 143 where
    somebody stopped it."""
    words = sys.argv[1:]
    own, command = words, []
    if "--" in words:
        own, command = words[: words.index("--")], words[words.index("--") + 1 :]
    try:
        settings = parse([SubmitSettings], arguments=own, description=__doc__ or "")
        return submit(command, settings=settings.of(SubmitSettings))
    except WrongUsage as error:
        print(f"submit: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
