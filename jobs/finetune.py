#!/usr/bin/env python
"""Trains a model on labelled images, on as many workers as there are.

    jobs/finetune.py --model FOLDER_OR_HUB_ID --dataset URI --output FOLDER --validation URI
    jobs/finetune.py --config configs/finetune/NAME.yaml --dataset URI --output FOLDER

Run it again after whatever happened: it goes on from the last checkpoint, with the same result.
"""

import sys
from pathlib import Path

# A job is a file: it runs from a checkout, or from Ray's copy of one, without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.training.announcer import Announcer


def main() -> int:
    """Exit codes: 0 done, 2 wrong usage, wrong data or a loss that is not finite, 75 try again."""
    with Announcer() as announcer:
        announcer.doing("loading torch and Ray")
        # Here, not above: on a busy machine this takes longer than anyone waits without a word.
        from pipeline.runtime.settings import WrongUsage, parse
        from pipeline.training.run import PARTS, finetune

        try:
            settings = parse(PARTS, description=__doc__ or "")
        except WrongUsage as error:
            announcer.say(f"finetune: {error}")
            return 2
        return finetune(settings, announcer=announcer)


if __name__ == "__main__":
    sys.exit(main())
