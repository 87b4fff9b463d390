"""Runs the page's server until Ctrl-C: the commands `gallery` and `review`."""

import asyncio
import contextlib
import getpass
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.api import PageApi
from pipeline.review_page.security import Access, token_for
from pipeline.review_page.settings import PageSettings, ReviewSettings, ViewSettings
from pipeline.review_page.view import TableView
from pipeline.reviews.log import DamagedRevision
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.storage import SourceChanged, Storage, StorageFault

_SHUTDOWN_SECONDS = 10.0
_REFRESH_SECONDS = 30.0


def show_gallery(settings: Settings) -> int:
    """Serves the page to look at a table; returns 0 after Ctrl-C."""
    return _serve(settings, review=None)


def review_table(settings: Settings) -> int:
    """Serves the page to look at a table and to correct it; returns 0 after Ctrl-C."""
    return _serve(settings, review=settings.of(ReviewSettings))


def _serve(settings: Settings, *, review: ReviewSettings | None) -> int:
    page = settings.of(PageSettings)
    token_for(page)  # refuses before anything is read
    storage = settings.of(Storage).with_environment()
    try:
        with as_wrong_usage():
            view = TableView(
                settings.of(ViewSettings),
                review,
                storage=storage,
                reading=settings.of(ReadSettings),
            )
    except FileNotFoundError as error:
        raise WrongUsage(str(error)) from error
    reviewer = reviewer_name(review)
    if review is not None and review.reviewer_header and page.public_address is None:
        raise WrongUsage("--reviewer_header needs --public_address, that of the proxy")
    with contextlib.closing(view):
        asyncio.run(
            serve(
                view,
                page=page,
                reviewer=reviewer,
                ready=lambda address: _announce(address, page=page),
            )
        )
    print("stopped", file=sys.stderr)
    return ExitCode.DONE


async def serve(
    view: TableView,
    *,
    page: PageSettings,
    reviewer: str | None,
    ready: Callable[[str], None],
) -> None:
    """Serves a view until SIGINT or SIGTERM; requests in progress are answered first.

    Args:
        ready: is called with the address, token included, as soon as the server listens.

    Raises:
        WrongUsage: the port is taken, or the address is not of this machine.
        StorageFault: the table's index could not be read.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loaded = loop.run_in_executor(None, view.load)
    header = view.review.reviewer_header if view.review else None
    api = PageApi(view, loaded=loaded, reviewer=reviewer, reviewer_header=header)
    fresh = asyncio.ensure_future(keep_fresh(view, loaded=loaded))
    port = page.port_for(view.table.uri)
    runner = None
    try:
        listener = listening(page.host, port)
        port = listener.getsockname()[1]
        access = Access.of(page, port=port)
        runner = web.AppRunner(
            api.application(access),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        await web.SockSite(runner, listener).start()
        ready(f"{address_of(page, port=port)}/?token={quote(access.token, safe='')}")
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopped, loaded], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            loaded.result()  # a table that cannot be read ends the command
            await stopped
    finally:
        fresh.cancel()
        if runner is not None:
            await runner.cleanup()
        await loop.run_in_executor(None, api.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def keep_fresh(view: TableView, *, loaded: "asyncio.Future[None]") -> None:
    """Reads the reviews once the index is there, and then those that other servers save."""
    await asyncio.wait([loaded])
    if loaded.cancelled() or loaded.exception() is not None:
        return
    while True:
        try:
            await asyncio.get_running_loop().run_in_executor(None, view.state.refresh)
        except (StorageFault, SourceChanged, DamagedRevision, FileNotFoundError) as error:
            print(f"the reviews could not all be read: {error}", file=sys.stderr, flush=True)
        await asyncio.sleep(_REFRESH_SECONDS)


def listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; WrongUsage where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
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


def reviewer_name(review: ReviewSettings | None) -> str | None:
    """Returns the name that revisions carry; None where nothing is saved."""
    if review is None:
        return None
    if review.reviewer is not None:
        return review.reviewer.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise WrongUsage("this system's user has no name; give one by --reviewer") from None


def _announce(address: str, *, page: PageSettings) -> None:
    print(f"the page is at {address}", flush=True)
    print("Ctrl-C ends it", file=sys.stderr, flush=True)
    if not page.no_open and page.public_address is None:
        with contextlib.suppress(Exception):  # a machine without a browser
            webbrowser.open(address)
