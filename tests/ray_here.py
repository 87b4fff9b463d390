"""A cluster of Ray for the tests of one module: one node, on this machine alone."""

import contextlib
import sys
from collections.abc import Iterator

import pytest
import ray

# Each start of a worker costs 1.5 CPU-seconds: none before it is asked for, and idle ones stay.
_FEW_STARTS = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}


@contextlib.contextmanager
def ray_here(*modules: str, num_cpus: int = 2, num_gpus: int = 0) -> Iterator[None]:
    """Starts Ray with one node, and ends it.

    Args:
        modules: the `__name__` of the tests, and of their helpers. What they define travels by
            value: workers do not find the modules by their names.
        num_gpus: GPUs that Ray is told of; no program finds them.
    """
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _FEW_STARTS.items():
            patch.setenv(name, value)
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
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[module])
