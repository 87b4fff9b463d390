"""One Chromium without a window for all tests of a file, and pages in it as people open them."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, NAMES_OF_CHROMIUM)), None)
    if chromium is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium)
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[[str], Any]]:
    """Opens an address as another person would, in a browser without cookies and drafts."""
    contexts, errors = [], []

    def new(address: str) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda said: errors.append(said.text) if "Content Security" in said.text else None,
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "dialog", lambda dialog: errors.append(f"a dialog of the browser: {dialog.message}")
        )
        page.goto(address)
        page.locator(".tile[href]").first.wait_for()
        return page

    yield new
    for context in contexts:
        context.close()
    assert errors == []
