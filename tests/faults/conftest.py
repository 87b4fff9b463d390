"""The fault suite starts jobs as their own tests do, with the same tiny model."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import S3Server, s3_server

_JOBS = Path(__file__).parents[1] / "jobs"
sys.path.insert(0, str(_JOBS))  # for job_runs, drawn and table_rows

_spec = importlib.util.spec_from_file_location("jobs_conftest", _JOBS / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)

jobs, tiny_model, usual = _shared.jobs, _shared.tiny_model, _shared.usual


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Starts a real S3 server for the tests of a module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
