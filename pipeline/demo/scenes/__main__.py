"""Writes drawn scenes as tar shards.

python -m pipeline.demo.scenes OUT --num_images 2000 --seed 1
"""

import argparse
import os
import sys
from collections.abc import Sequence

from pipeline.demo.scenes.shards import write_shards
from pipeline.storage import StorageFault


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 wrong usage, 75 the storage failed."""
    given = _parser().parse_args(arguments)
    try:
        write_shards(
            given.folder,
            num_images=given.num_images,
            seed=given.seed,
            shard_images=given.shard_images,
            num_processes=given.num_processes,
        )
    except ValueError as error:
        print(f"scenes: {error}", file=sys.stderr)
        return 2
    except StorageFault as error:
        print(f"scenes: {error}", file=sys.stderr)
        return 75
    print(f"{given.num_images} scenes are in {given.folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.scenes", description=__doc__)
    parser.add_argument(
        "folder", metavar="OUT", help="empty folder or prefix; made where there is none"
    )
    parser.add_argument("--num_images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="another seed, other scenes")
    parser.add_argument("--shard_images", type=int, default=250, help="scenes of one tar")
    parser.add_argument("--num_processes", type=int, default=os.cpu_count() or 1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
