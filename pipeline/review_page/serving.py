"""Serves a view of a table over HTTP until SIGINT or SIGTERM."""

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any
from urllib.parse import quote

from aiohttp import web

from pipeline.review_page.api import PageApi
from pipeline.review_page.security import Access
from pipeline.review_page.settings import PageSettings
from pipeline.review_page.view import TableView
from pipeline.reviews.log import DamagedRevision
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import SourceChanged, StorageFault

_SHUTDOWN_SECONDS = 10.0
_TRIES = 10
_REFRESH_SECONDS = 30.0
_REST = 20
"""Least time between two readings of the table, as a multiple of the time that one takes."""


async def serve(
    view: TableView,
    *,
    page: PageSettings,
    loaded: "Future[None]",
    reviewer: str | None,
    ready: Callable[[str], None],
) -> None:
    """Serves a view until a signal; requests in progress are answered first.

    Args:
        loaded: is done when the view's index is read; requests wait for it.
        ready: is called with the address, token included, as soon as the server listens.

    Raises:
        WrongUsage: the port is taken, or the address is not of this machine.
        StorageFault: the table's index could not be read.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        port = page.port_for(view.table.uri)
        listener = listening(page.host, port, tries=_TRIES if page.port is None else 1)
        stack.callback(listener.close)
        port = listener.getsockname()[1]
        access = Access.of(page, port=port)
        header = view.review.reviewer_header if view.review else None
        read: asyncio.Future[None] = asyncio.wrap_future(loaded)
        api = PageApi(view, loaded=read, reviewer=reviewer, reviewer_header=header)
        stack.push_async_callback(loop.run_in_executor, None, api.close)
        runner = web.AppRunner(
            api.application(access),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener).start()
        # First of all: nobody waits for a picture any more.
        stack.push_async_callback(loop.run_in_executor, None, view.pictures.close)
        ready(f"{address_of(page, port=port)}/?token={quote(access.token, safe='')}")
        stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        either: list[asyncio.Future[Any]] = [stopped, read]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            await read  # a table that cannot be read ends the command
            fresh = asyncio.ensure_future(keep_fresh(view))
            await stopped
            fresh.cancel()


async def keep_fresh(view: TableView) -> None:
    """Starts the decoders and reads the reviews, then again and again what others add.

    Those are reviews of other servers, and units of later runs.
    """
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, view.pictures.warm_up)
    wait = _REFRESH_SECONDS
    while True:
        try:
            await loop.run_in_executor(None, view.now.state.refresh)
        except (StorageFault, SourceChanged, DamagedRevision, FileNotFoundError) as error:
            print(f"the reviews could not all be read: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(wait)
        started = loop.time()
        try:
            await loop.run_in_executor(None, view.reload)
        except (StorageFault, SourceChanged, FileNotFoundError) as error:
            print(f"the table could not be read again: {error}", file=sys.stderr, flush=True)
        # A table that grows all the time is read again for a small share of the time.
        wait = max(_REFRESH_SECONDS, _REST * (loop.time() - started))


def listening(host: str, port: int, *, tries: int = 1) -> socket.socket:
    """Returns a socket that is bound to an address.

    Args:
        tries: number of ports to try, this one and those after it.

    Raises:
        WrongUsage: the port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        if tries > 1 and error.errno == errno.EADDRINUSE:
            print(f"port {port} is taken, perhaps by another page of this table", file=sys.stderr)
            return listening(host, port + 1, tries=tries - 1)
        raise WrongUsage(
            f"cannot listen on {host}, port {port}: {error.strerror}; another page may be open "
            "there: end it, or choose another --port"
        ) from error
    return opened


def address_of(page: PageSettings, *, port: int) -> str:
    """Returns the address that people open, without the token."""
    if page.public_address is not None:
        return page.public_address.rstrip("/")
    host = f"[{page.host}]" if ":" in page.host else page.host
    return f"http://{host}:{port}"
