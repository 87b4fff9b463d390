"""Opens a table and runs the page's server: the commands `gallery` and `review`."""

import asyncio
import contextlib
import getpass
import sys
import webbrowser
from concurrent.futures import ThreadPoolExecutor

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.settings import PageSettings, ReviewSettings, ViewSettings
from pipeline.review_page.view import TableView
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage, as_wrong_usage
from pipeline.storage import Storage


def show_gallery(settings: Settings) -> int:
    """Serves the page to look at a table; returns 0 after Ctrl-C."""
    return _run(settings, review=None)


def review_table(settings: Settings) -> int:
    """Serves the page to look at a table and to correct it; returns 0 after Ctrl-C."""
    return _run(settings, review=settings.of(ReviewSettings))


def _run(settings: Settings, *, review: ReviewSettings | None) -> int:
    page = settings.of(PageSettings)
    page.check_token()
    reviewer = reviewer_name(review)
    if review is not None and review.reviewer_header and page.public_address is None:
        raise WrongUsage("--reviewer_header needs --public_address, that of the proxy")
    view = _opened(settings, review=review)
    with contextlib.closing(view), ThreadPoolExecutor(1, "index") as pool:
        loaded = pool.submit(view.load)
        # Imported while the index is read: the libraries of a server take half a second.
        from pipeline.review_page.serving import serve

        asyncio.run(
            serve(
                view,
                page=page,
                loaded=loaded,
                reviewer=reviewer,
                ready=lambda address: _announce(address, page=page),
            )
        )
    print("stopped", file=sys.stderr)
    return ExitCode.DONE


def _opened(settings: Settings, *, review: ReviewSettings | None) -> TableView:
    with as_wrong_usage():
        return TableView(
            settings.of(ViewSettings),
            review,
            storage=settings.of(Storage).with_environment(),
            reading=settings.of(ReadSettings),
        )


def reviewer_name(review: ReviewSettings | None) -> str | None:
    """Returns the name that revisions carry; None where nothing is saved.

    Raises:
        WrongUsage: none is given, and this system's user has none.
    """
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
