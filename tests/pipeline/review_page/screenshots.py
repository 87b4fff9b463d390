"""Takes the pictures of the page that the READMEs show, from a table of the demo.

    PYTHONPATH=. python tests/pipeline/review_page/screenshots.py demo/table pictures/

Writes grid, image, brush and conflict, in light and in dark. Reviews go to a temporary folder.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from in_browser import drag, wait_for_grid
from page_server import PageServer
from playwright.sync_api import expect, sync_playwright
from ports import free_ports

SIZE = {"width": 1400, "height": 860}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("table")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as reviews, sync_playwright() as play:
        servers = [
            PageServer(arguments.table, port=port, reviews=reviews, reviewer=name)
            for port, name in zip(free_ports(2), ("ana", "ben"), strict=True)
        ]
        for server in servers:
            server.start()
        browser = play.chromium.launch(executable_path=shutil.which("chromium"))
        try:
            pages = []
            for server in servers:
                page = browser.new_context(viewport=SIZE).new_page()
                page.goto(server.opening_address)
                wait_for_grid(page)
                pages.append(page)
            _take(*pages, folder=arguments.folder)
        finally:
            browser.close()
            for server in servers:
                server.stop()


def _take(ana: Any, ben: Any, *, folder: Path) -> None:
    _open(ana, 0)
    for key in ("a", "a", "x"):
        opened = ana.locator("#image-name").inner_text()
        ana.keyboard.press(key)
        expect(ana.locator("#image-name")).not_to_have_text(opened)
        _wait_for_segments(ana)
    ana.keyboard.press("Escape")
    wait_for_grid(ana)
    ana.wait_for_load_state("networkidle")
    _picture(ana, folder, "grid")
    for page in (ana, ben):
        _open(page, 3)
        page.keyboard.press("ArrowDown")
    _picture(ana, folder, "image")
    _draw(ben)
    _picture(ben, folder, "brush")
    ana.keyboard.press("3")
    ana.keyboard.press("Control+s")
    expect(ana.locator("#save-state")).to_contain_text("saved at")
    ben.keyboard.press("v")
    ben.keyboard.press("ArrowUp")
    ben.locator("#legend button").first.click()
    ben.keyboard.press("5")
    ben.keyboard.press("Control+s")
    expect(ben.locator("#conflict")).to_be_visible()
    ben.wait_for_load_state("networkidle")
    _picture(ben, folder, "conflict")
    ben.keyboard.press("Escape")
    ben.keyboard.press("?")
    _picture(ben, folder, "keys")


def _draw(page: Any) -> None:
    page.keyboard.press("Escape")
    page.locator("#recent button").nth(1).click()
    photo = "document.getElementById('photo')"
    width, height = page.evaluate(f"[{photo}.width, {photo}.height]")
    drag(page, (0.3 * width, 0.3 * height), (0.5 * width, 0.4 * height), steps=10)


def _open(page: Any, place: int) -> None:
    page.locator(f"[data-place='{place}'] .tile[href]").click()
    _wait_for_segments(page)


def _wait_for_segments(page: Any) -> None:
    page.locator("#legend button").first.wait_for()
    expect(page.locator("#loading")).to_be_hidden()


def _picture(page: Any, folder: Path, name: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"{name}-{scheme}.png")
    page.emulate_media(color_scheme="light")


if __name__ == "__main__":
    main()
