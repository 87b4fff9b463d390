"""Connects to a Ray cluster, or starts one on this machine."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import ray

import maskformer
import pipeline
from pipeline.runtime.inside_ray import listen_on_this_machine_only

_OWN_CLUSTER = {
    # Ray ends surplus idle workers after 1 s by default; each start costs 1.5 CPU-seconds.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Ray measures each process every 5 s by default, which takes 1 % of a core.
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}

_CODE = {"py_modules": [maskformer, pipeline], "excludes": ["/demo/"]}
"""Our code for the nodes of a cluster; without `pipeline/demo`, which no worker imports."""


def connect(address: str | None = None, *, dashboard: bool = False) -> None:
    """Connects to the cluster at `address` or in RAY_ADDRESS, or starts one on this machine.

    Args:
        dashboard: whether to print where Ray's dashboard is; a cluster that is started here has one
            only then.

    Raises:
        ConnectionError: no cluster answers there, or none could be started.
    """
    _log_errors_only()
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_started_here(address):
        _let_workers_find_this_code()
        for name, value in _OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
        try:
            context = ray.init(
                address="local",
                include_dashboard=dashboard,
                **listen_on_this_machine_only(),
                **settings,
            )
        except Exception as error:  # Ray has no class of its own for it
            raise ConnectionError(f"Ray did not start on this machine: {error}") from error
    else:
        context = _join(address or os.environ["RAY_ADDRESS"], settings)
    if dashboard:
        url = context.dashboard_url
        where = f"http://{url}" if url else "this cluster has none"
        print(f"Ray dashboard: {where}", file=sys.stderr, flush=True)


def _join(address: str, settings: dict[str, Any]) -> Any:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        # Not a submitted job, whose working directory would bring our code to the other nodes.
        settings = {**settings, "runtime_env": _CODE}
    try:
        return ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error}") from error


def is_started_here(address: str | None) -> bool:
    """Returns whether `connect` starts a cluster, which serves this run alone and ends with it."""
    return not (address or os.environ.get("RAY_ADDRESS"))


def _let_workers_find_this_code() -> None:
    """Puts the checkout on the path of all processes that Ray starts from this one.

    By default they look in the user's current folder, then for an installed package.
    """
    root = str(Path(pipeline.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{others}" if others else root


def _log_errors_only() -> None:
    """Lets Ray print errors only, by its public settings; its log files have the rest."""
    # Ray prints one line that names this variable. Without it, it warns of Ray Data's own actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
