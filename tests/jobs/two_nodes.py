"""A cluster of two nodes on this machine, for as long as the test wants it.

    python two_nodes.py FOLDER

Writes FOLDER/address; removes the second node when FOLDER/remove appears, and says so by
FOLDER/removed. Processes of the second node have TEST_NODE=second in their environment.
"""

import os
import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    os.environ["TEST_NODE"] = "second"
    second = cluster.add_node(num_cpus=2)
    _say(folder / "address", cluster.address)
    while not (folder / "remove").exists():
        time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)
    _say(folder / "removed", "")
    time.sleep(600)  # until we are ended


def _say(file: Path, text: str) -> None:
    beside = file.with_suffix(".tmp")
    beside.write_text(text)
    beside.rename(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
