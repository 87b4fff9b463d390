"""A job for `test_campaign.py`: labels without Ray, beside processes that look like Ray's.

It ends with 75 as soon as one of them is gone, and goes on where it is started again. A careless
one begins with everything each time, and keeps what is there.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path += [str(Path(__file__).parents[1])]  # for specs

from small_runs import begun, exit_code

_SLEEP = str(shutil.which("sleep"))
_TITLES = ("raylet", "ray::map", "ray::MapWorker(MapBatches(Segmenter))", "ray::IDLE")


def main(corpus: Path, folder: Path, manner: str) -> int:
    raylet = folder / str(os.getpid()) / "raylet"
    raylet.parent.mkdir()
    shutil.copy(_SLEEP, raylet)
    others = [
        subprocess.Popen([title, "600"], executable=raylet if title == "raylet" else _SLEEP)
        for title in _TITLES
    ]
    table = folder / "table" / (str(os.getpid()) if manner == "careless" else "one")
    child = begun(corpus, table, run_id=f"run-{os.getpid()}", pause_seconds=0.05)
    try:
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if any(other.poll() is not None for other in others):
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        return 0 if exit_code(child) == 0 else 75
    finally:
        for other in others:
            other.kill()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
