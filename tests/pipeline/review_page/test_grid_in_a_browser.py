"""The grid in Chromium, over tables of many images whose rows and photographs are there."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from large_tables import SPEC, draw_large_table
from page_clients import opened_page
from photo_tables import box_photo, encoded, label_corpus, make_table

pytest.importorskip("playwright.sync_api")

from in_browser import (
    click,
    expect,
    measured_ms,
    open_image,
    shown,
    tile,
)  # fmt: skip

from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    folder = tmp_path_factory.mktemp("grid")
    return TableStore(draw_large_table(f"{folder}/table", images=3000, segments=4), Storage())


@pytest.fixture(scope="module")
def address(table: TableStore) -> Iterator[str]:
    with opened_page(table.uri) as (client, _):
        yield client.opening_address


@pytest.fixture
def page(new_page: Callable[[str], Any], address: str) -> Any:
    return new_page(address)


def test_the_grid_sorts_filters_and_counts(page: Any, table: TableStore) -> None:
    labels = table.dataset("segments", SEGMENTS).to_table(columns=["image_id", "label"])
    segments = Counter(labels["label"].to_pylist())
    expect(page.locator("#total")).to_have_text("3,000 images")
    names = page.locator("#label-list .item-name").all_inner_texts()[1:]
    counts = page.locator("#label-list .count").all_inner_texts()
    assert dict(zip(names, counts, strict=True)) == {
        label: f"{segments[label]:,}" for label in SPEC.labels
    }
    page.get_by_label("Sort by").select_option("mean_score")
    facts = page.locator(".tile-facts")
    expect(page.get_by_role("button", name="Descending")).to_have_attribute("aria-pressed", "false")
    expect(page.locator(".tile-name").first).to_have_text(by_score(table)[0])
    scores = [float(text.rsplit("score ", 1)[1]) for text in facts.all_inner_texts()]
    assert scores == sorted(scores)
    page.get_by_role("button", name="Descending").click()
    expect(page.get_by_role("button", name="Descending")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".tile-name").first).to_have_text(by_score(table)[-1])
    page.get_by_label("Sort by").select_option("strangeness")
    expect(facts.first).to_contain_text("strangeness ")
    values = [float(re.findall(r"strangeness ([\d.]+)", f)[0]) for f in facts.all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.locator("#label-list button", has_text="label 100").first.click()
    of_label = labels.filter(pc.field("label") == "label 100")["image_id"].unique()
    expect(page.locator("#total")).to_have_text(images_in_words(len(of_label)))
    page.get_by_label("Status", exact=True).select_option("flagged")
    expect(page.locator("#total")).to_have_text("0 images")
    page.go_back()
    expect(page.locator("#total")).to_have_text(images_in_words(len(of_label)))
    print(f"figure: first grid on screen {measured_ms(page, 'grid on screen')[0]:.0f} ms")


def test_three_thousand_images_are_a_few_elements_with_their_photographs(
    page: Any, table: TableStore
) -> None:
    check_scrolling(page, names_of(table))


@pytest.mark.faults
def test_a_hundred_thousand_images_are_a_few_elements_with_their_photographs(
    new_page: Callable[[str], Any], tmp_path: Path
) -> None:
    place = draw_large_table(f"{tmp_path}/table", images=100_000, segments=10)
    with opened_page(place) as (client, _):
        page = new_page(client.opening_address)
        expect(page.locator("#total")).to_have_text("100,000 images")
        check_scrolling(page, names_of(TableStore(place, Storage())))
        print(f"figure: first grid on screen {measured_ms(page, 'grid on screen')[0]:.0f} ms")


def check_scrolling(page: Any, names: list[str]) -> None:
    """Goes to the end by a key and to the middle by the scroll bar, and opens an image there."""
    tile(page, names[0]).focus()
    page.keyboard.press("End")
    expect(tile(page, names[-1])).to_be_focused()
    page.locator("#grid").evaluate("grid => grid.scrollTop = grid.scrollHeight / 2")
    in_the_middle = names[len(names) // 2 - 60 : len(names) // 2 + 60]
    expect(page.locator(".tile-name").nth(12)).to_have_text(re.compile("|".join(in_the_middle)))
    assert page.locator(".tile").count() < 100
    pictures = page.locator(".tile img[src]")
    pictures.first.wait_for()
    expect(pictures.first).to_have_js_property("complete", True)
    assert pictures.first.evaluate("picture => picture.naturalWidth") == 320
    name = page.locator(".tile-name").nth(12).inner_text()
    tile(page, name).click()
    shown(page, name)
    assert page.evaluate("document.getElementById('photo').naturalWidth") == 640
    number = names.index(name) + 1
    expect(page.locator("#position")).to_contain_text(f"{number:,} of {len(names):,}")
    page.keyboard.press("n")
    shown(page, names[number])


def test_images_of_a_later_run_appear_without_a_restart(
    new_page: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.review_page.api._RELOAD_SECONDS", 60)
    table = make_table(tmp_path, count=2)

    def run(number: int) -> None:
        Storage().write(f"{tmp_path}/corpus/{number:03}.jpg", encoded(box_photo(number)))
        label_corpus(f"{tmp_path}/corpus", table.uri, run_id=f"night-{number}")

    with opened_page(table.uri) as (client, view):
        page = new_page(client.opening_address)
        expect(page.locator("#total")).to_have_text("2 images")
        run(2)
        page.reload()
        expect(page.locator("#total")).to_have_text("3 images")
        run(3)
        view.reload()  # as the server does every half minute
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#total")).to_have_text("4 images")
        expect(page.locator(".notice")).to_contain_text("A later run has added 1 image.")
        expect(page.locator("#progress")).to_have_text("0 of 4 reviewed")
        open_image(page, "003.jpg")


def test_a_gallery_shows_and_changes_nothing(
    new_page: Callable[[str], Any], tmp_path: Path
) -> None:
    table = make_table(tmp_path, count=1)
    with opened_page(table.uri, reviewer=None) as (client, _):
        page = new_page(client.opening_address)
        open_image(page, "000.jpg")
        click(page, 40, 5)
        expect(page.locator("#selected-name")).to_have_text("sky 1")
        for key in ("r", "Delete", "1", "a", "Control+s"):
            page.keyboard.press(key)
        expect(page.locator("#selected-name")).to_have_text("sky 1")
        expect(page.get_by_role("button", name="Relabel")).to_be_hidden()
        expect(page.locator("#save-state")).to_be_empty()


def names_of(table: TableStore) -> list[str]:
    rows = table.dataset("images", IMAGES).to_table(columns=["image_id"])
    return sorted(rows["image_id"].to_pylist())


def by_score(table: TableStore) -> list[str]:
    rows = table.dataset("images", IMAGES).to_table(columns=["image_id", "mean_score"])
    order = rows.sort_by([("mean_score", "ascending"), ("image_id", "ascending")])
    return order["image_id"].to_pylist()


def images_in_words(number: int) -> str:
    return f"{number:,} image{'s' * (number != 1)}"
