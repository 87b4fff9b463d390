"""What the tests of the pipeline's parts share: storage without waits, and a real S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import S3Server, s3_server, storage_at

import pipeline.storage.retries
from pipeline.storage import Storage
from pipeline.table.store import TableStore


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that fails is asked again at once."""
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.0)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with one bucket, `test`, for all tests: each writes under a prefix of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_storage(s3: S3Server) -> Storage:
    """Makes a storage that reaches the server, with credentials in the settings."""
    return storage_at(s3.endpoint_url)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> tuple[Storage, str]:
    """A storage and an empty place in it: a folder and a prefix in turn."""
    if request.param == "local":
        return Storage(), str(request.getfixturevalue("tmp_path") / "place")
    name = f"s3://test/{request.node.name.replace('[', '-').replace(']', '')}"
    return request.getfixturevalue("s3_storage"), name


@pytest.fixture
def table(tmp_path: Path) -> TableStore:
    """A place for a table, where nothing is yet; many files have a table of their own."""
    return TableStore(str(tmp_path / "table"), Storage())
