"""Takes screenshots in Chromium, through playwright; neither is needed by anything but pictures."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1400, "height": 860}
"""Pixels of the window."""


class NoBrowser(Exception):
    """There is no browser to take screenshots with; the message says what is missing."""


@contextlib.contextmanager
def opened_browser() -> Iterator[Any]:
    """Yields playwright's browser: this system's Chromium, else the one of playwright.

    Raises:
        NoBrowser: playwright or Chromium is missing, or a page did not open.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        raise NoBrowser("playwright is not installed (pip install playwright)") from None
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=path)
            try:
                yield browser
            finally:
                browser.close()
    except Error as error:
        lines = [line for line in error.message.splitlines() if line.strip(" ╔╗╚╝═║")]
        raise NoBrowser(f"Chromium did not show it: {lines[0].strip()}") from error


def wait_for_grid(page: Any) -> None:
    """Waits until the page shows its grid, with the thumbnails of its window."""
    page.locator(".tile[href]").first.wait_for(timeout=60_000)
    page.wait_for_load_state("networkidle", timeout=60_000)


def write_screenshot_of_grid(address: str, file: Path) -> None:
    """Opens a table's page and writes a picture of its grid.

    Raises:
        NoBrowser: as `opened_browser` does.
    """
    with opened_browser() as browser:
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        wait_for_grid(page)
        page.screenshot(path=file)
