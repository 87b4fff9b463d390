"""What a person does on the page, as steps of a test in a browser."""

from typing import Any

from playwright.sync_api import Locator, Page, expect

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
