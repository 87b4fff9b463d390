"""Sessions of s3fs and of fsspec's HTTP filesystem: all that is used of their inner workings.

Our own requests (`s3_objects.py`, `http_objects.py`) go over the connections that these filesystems
set up, with their credentials and on their event loop. Their own requests would not do: s3fs
retries unseen and takes a version out of a key, the HTTP filesystem takes any answer for absence.

The names used here are public, but their documentation promises nothing. If one of them changes, no
object of S3 or HTTP can be reached, and `test_sessions.py` fails:

- `fs.set_session()` returns aiobotocore's S3 client, or aiohttp's session, and
  `fs.set_session(refresh=True)` makes a client with credentials that are read anew;
- `fs.loop` is the event loop that both belong to;
- `fs.config_kwargs` has the timeouts of the client.
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

from fsspec.asyn import sync

T = TypeVar("T")


def run_coroutine(fs: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the filesystem's event loop; returns its result."""
    return sync(fs.loop, lambda: coroutine)


async def session_of(fs: Any) -> Any:
    """Returns aiobotocore's client of an S3 filesystem, aiohttp's session of an HTTP filesystem."""
    return await fs.set_session()


def renew_session(fs: Any) -> None:
    """Replaces the S3 client by one whose credentials are read anew."""
    sync(fs.loop, fs.set_session, refresh=True)


def seconds_to_answer(fs: Any) -> float:
    """Returns for how long the S3 client waits for a connection and an answer, together."""
    return fs.config_kwargs["connect_timeout"] + fs.config_kwargs["read_timeout"]
