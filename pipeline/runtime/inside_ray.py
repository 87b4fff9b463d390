"""Uses of Ray that its public interface does not offer; nothing else of ours knows its inside.

Each function names what it uses, why, and what breaks when Ray changes it. The tests of this file
fail when one of these parts is renamed or means something else.
"""

import os
from collections.abc import Generator
from typing import Any

import pyarrow as pa
import ray
import ray.data

_ON_THE_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray reads it on all systems


def listen_on_this_machine_only() -> dict[str, Any]:
    """Makes a cluster that is started next listen on 127.0.0.1 alone; gives options for `ray.init`.

    Uses the option `_node_ip_address`, and for the processes that ask for the machine's address by
    themselves, the constant that the environment variable sets when Ray is imported. Without
    these, Ray listens on the machine's address on the network: anybody there could run code here.
    `ray start` has a public option for it, `ray.init` has none.
    """
    if _ON_THE_NETWORK not in os.environ:
        os.environ[_ON_THE_NETWORK] = "0"
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    return {"_node_ip_address": "127.0.0.1"}


def map_blocks(dataset: "ray.data.Dataset", fn: Any, **options: Any) -> "ray.data.Dataset":
    """Calls `fn` on each block as it came, also where it has GPUs.

    Uses `map_batches_internal`, to which the public `map_batches` passes all its arguments after
    it refused `batch_size=None` together with GPUs. A number there would join blocks up to it and
    cut them anew: actors would wait for images, or get more than their memory was planned for.
    Without it the labelling and evaluation jobs stop with an AttributeError when they begin.
    """
    return dataset.map_batches_internal(
        fn, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **options
    )


def blocks(dataset: "ray.data.Dataset") -> Generator[pa.Table, None, None]:
    """Executes the dataset and yields its blocks as they come; once closed, nothing of it runs.

    Uses `iter_internal_ref_bundles`, which Ray offers to developers of libraries. The public
    `iter_batches`, closed early, leaves a thread for a tenth of a second, which shuts the execution
    down: Ray ends a process whose thread does so after `ray.shutdown`. Without it the labelling
    and evaluation jobs stop with an AttributeError when they begin.
    """
    for bundle in dataset.iter_internal_ref_bundles():
        yield from ray.get([entry.ref for entry in bundle.blocks])
