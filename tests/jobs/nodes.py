"""A cluster on this machine, for as long as a test wants it.

    python nodes.py FOLDER [OPTIONS]

Starts one node, with OPTIONS of `Cluster.add_node` as JSON, and writes FOLDER/address. A second
node comes when FOLDER/add appears, and goes at once when FOLDER/remove
does; FOLDER/added and FOLDER/removed say so. Its processes have TEST_NODE=second in their
environment.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster


def main(folder: Path, options: dict[str, Any]) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **options})
    _say(folder / "address", cluster.address)
    os.environ["TEST_NODE"] = "second"
    _wait_for(folder / "add")
    second = cluster.add_node(num_cpus=2)
    _say(folder / "added", "")
    _wait_for(folder / "remove")
    cluster.remove_node(second, allow_graceful=False)
    _say(folder / "removed", "")
    time.sleep(600)  # until we are ended


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.05)


def _say(file: Path, text: str) -> None:
    beside = file.with_suffix(".tmp")
    beside.write_text(text)
    beside.rename(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})
