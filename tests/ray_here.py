"""A cluster of Ray for the tests of one module: one node, on this machine alone."""

import contextlib
import sys
from collections.abc import Iterator

import ray


@contextlib.contextmanager
def ray_here(module: str, *, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[None]:
    """Starts Ray with one node, and ends it.

    Args:
        module: the `__name__` of the tests. What they define travels by value: workers do not find
            the module by its name.
        num_gpus: GPUs that Ray is told of; no program finds them.
    """
    ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[module])
