"""s3fs and fsspec still offer the sessions that our requests go over, with their real servers."""

import aiohttp
import fsspec
import pytest
from aiobotocore.client import AioBaseClient

from pipeline.storage import join
from pipeline.storage.sessions import renew_session, run_coroutine, seconds_to_answer, session_of

CHANGED = "s3fs or fsspec has changed what pipeline/storage/sessions.py relies on"


@pytest.fixture
def s3_filesystem(s3_storage):
    return s3_storage._filesystem("s3://test/x")[0]


def test_an_s3_filesystem_gives_its_client_which_runs_on_its_loop(s3_storage, s3_filesystem):
    s3_storage.write(join("s3://test", "sessions", "a"), b"1")
    client = run_coroutine(s3_filesystem, session_of(s3_filesystem))
    assert isinstance(client, AioBaseClient), CHANGED
    found = run_coroutine(s3_filesystem, client.head_object(Bucket="test", Key="sessions/a"))
    assert found["ContentLength"] == 1


def test_a_renewed_s3_session_is_another_client(s3_filesystem):
    before = run_coroutine(s3_filesystem, session_of(s3_filesystem))
    renew_session(s3_filesystem)
    after = run_coroutine(s3_filesystem, session_of(s3_filesystem))
    assert isinstance(after, AioBaseClient), CHANGED
    assert after is not before, CHANGED


def test_an_s3_filesystem_knows_the_timeouts_it_was_given(s3_storage, s3_filesystem):
    given = s3_storage.connect_timeout_seconds + s3_storage.read_timeout_seconds
    assert seconds_to_answer(s3_filesystem) == given, CHANGED
    assert (
        run_coroutine(s3_filesystem, session_of(s3_filesystem)).meta.config.read_timeout
        == s3_storage.read_timeout_seconds
    )


def test_an_http_filesystem_gives_aiohttps_session():
    http = fsspec.filesystem("http")
    session = run_coroutine(http, session_of(http))
    assert isinstance(session, aiohttp.ClientSession), CHANGED
    assert not session.closed, CHANGED
