"""What a person does on the page, as steps of a test in a browser."""

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from maskformer import decode_rle
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import Revision
from pipeline.storage import Storage
from pipeline.table.store import TableStore

expect.set_options(timeout=30_000)  # a loaded machine is slow, and no failure

MARKUP = "<img src=x onerror=alert(1)> & co.jpg"


def wait_for_grid(page: Page) -> None:
    page.locator(".tile[href]").first.wait_for()


def tile(page: Page, image_id: str) -> Locator:
    return page.locator(".tile", has=page.get_by_text(image_id, exact=True))


def open_image(page: Page, image_id: str) -> None:
    tile(page, image_id).click()
    shown(page, image_id)


def shown(page: Page, image_id: str) -> None:
    """Waits until an image is on screen with its segments."""
    expect(page.locator("#image-name")).to_have_text(image_id)
    page.locator("#legend button").first.wait_for()
    expect(page.locator("#loading")).to_be_hidden()


def position(page: Page, x: float, y: float) -> tuple[float, float]:
    """Returns where in the window a point of the image is."""
    box = page.locator("#photo").bounding_box()
    assert box is not None
    scale = page.evaluate(
        "document.getElementById('photo').getBoundingClientRect().width"
        " / document.getElementById('photo').width"
    )
    return box["x"] + x * scale, box["y"] + y * scale


def click(page: Page, x: float, y: float, **options: Any) -> None:
    page.mouse.click(*position(page, x, y), **options)


def drag(page: Page, *points: tuple[float, float], steps: int = 4) -> None:
    page.mouse.move(*position(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*position(page, *point), steps=steps)
    page.mouse.up()


def legend(page: Page) -> list[str]:
    """Returns the names of the segments, sorted."""
    return sorted(page.locator("#legend button .item-name").all_inner_texts())


def measured_ms(page: Page, name: str) -> list[float]:
    script = "name => performance.getEntriesByName(name).map(({duration}) => duration)"
    durations: list[float] = page.evaluate(script, name)
    return durations


def relabel(page: Page, *, at: tuple[float, float], label: str) -> None:
    click(page, *at)
    page.keyboard.press("r")
    page.get_by_placeholder("type to search").fill(label)
    page.keyboard.press("Enter")
    expect(page.locator("#selected-name")).to_contain_text(label)


def wait_until_saved(page: Page, by: str = "ana") -> None:
    expect(page.locator("#save-state")).to_contain_text(f"by {by}")
    expect(page.locator("#save-state")).to_have_attribute("data-state", "saved")


def saved(table: TableStore, image_id: str, storage: Storage | None = None) -> Revision:
    log = ReviewLog.of_table(table.uri, reviews=None, storage=storage or Storage())
    revision = log.latest(image_id)
    assert revision is not None
    return revision


def ids_of_revision(revision: Revision) -> np.ndarray:
    ids = np.zeros((revision.height, revision.width), np.int32)
    for segment in revision.segments:
        ids[decode_rle(segment.rle, height=revision.height, width=revision.width)] = (
            segment.segment_id
        )
    return ids


def violations(page: Page) -> list[tuple[str, str]]:
    """Returns the rules of axe-core that the page breaks, each with an element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]
