"""An image in Chromium: what a person sees and changes there, by mouse and by keyboard."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from photo_tables import box_photo, encoded, ids_of, label_corpus, write_corpus
from ports import free_ports

pytest.importorskip("playwright.sync_api")

from in_browser import (  # noqa: I001
    MARKUP, click, drag, expect, ids_of_revision, legend, measured_ms, open_image, relabel, saved,
    shown, tile, violations, wait_for_grid, wait_until_saved,
)  # fmt: skip
from page_server import PageServer

from pipeline.reviews.model_rows import model_state
from pipeline.storage import Storage
from pipeline.table.store import TableStore

NAMES = [f"{number:03}.jpg" for number in range(12)] + ["2mp.jpg", "12mp.jpg", MARKUP]
HEIGHT, WIDTH = 60, 90


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    folder = tmp_path_factory.mktemp("page")
    storage = Storage()
    sizes = {"2mp.jpg": (1200, 1700), "12mp.jpg": (3000, 4000)}
    photos = []
    for number, name in enumerate(NAMES):
        height, width = sizes.get(name, (HEIGHT, WIDTH))
        photos.append(encoded(box_photo(number, height=height, width=width)))
    write_corpus(
        f"{folder}/corpus", kind="files", count=len(NAMES), storage=storage, names=NAMES,
        photos=photos,
    )  # fmt: skip
    return label_corpus(f"{folder}/corpus", f"{folder}/table", storage=storage)


@pytest.fixture(scope="module")
def server(table: TableStore) -> Iterator[PageServer]:
    served = PageServer(table.uri, port=free_ports(1)[0], reviewer="ana")
    served.start()
    yield served
    served.stop()


@pytest.fixture
def page(new_page: Callable[[str], Any], server: PageServer) -> Any:
    return new_page(server.opening_address)


def test_a_save_in_a_browser_without_a_change_gives_the_rows_it_came_from(
    page: Any, table: TableStore
) -> None:
    open_image(page, "000.jpg")
    page.keyboard.press("Control+s")
    wait_until_saved(page)
    revision = saved(table, "000.jpg")
    assert revision.status == "accepted"
    assert revision.segments == tuple(model_state(table, "000.jpg").segments)
    assert revision.operations == ()


def test_a_segment_is_relabelled_by_search_by_digit_and_undone(
    page: Any, table: TableStore
) -> None:
    open_image(page, "001.jpg")
    click(page, 40, 5)
    expect(page.locator("#selected-name")).to_have_text("sky 1")
    page.keyboard.press("r")
    page.get_by_placeholder("type to search").fill("row")
    page.keyboard.press("Enter")
    expect(page.locator("#selected-name")).to_have_text("boat, rowing 1")
    click(page, 40, 52)
    digits = page.locator("#recent button").all_inner_texts()
    digit = next(n for n, text in enumerate(digits, 1) if text.endswith("Füße"))
    page.keyboard.press(str(digit))
    expect(page.locator("#selected-name")).to_have_text("Füße 2")
    page.keyboard.press("u")
    expect(page.locator("#selected-name")).to_have_text("tree 2")
    page.keyboard.press("y")
    page.keyboard.press("Control+s")
    wait_until_saved(page)
    revision = saved(table, "001.jpg")
    assert [s.label for s in revision.segments] == ["boat, rowing", "Füße", "boat, rowing"]
    assert [s.score is None for s in revision.segments] == [True, True, False]
    assert [s.origin_segment_id for s in revision.segments] == [1, 2, 3]
    assert [each.kind for each in revision.operations] == ["relabel", "relabel"]
    page.reload()
    shown(page, "001.jpg")
    expect(page.locator("#badge")).to_have_text("Corrected")
    wait_until_saved(page)
    assert legend(page) == ["Füße 2", "boat, rowing 1", "boat, rowing 3"]


def test_brush_eraser_polygon_split_merge_and_holes_write_one_map(
    page: Any, table: TableStore
) -> None:
    open_image(page, "002.jpg")
    number = NAMES.index("002.jpg")
    click(page, 40, 5)
    page.keyboard.press("e")
    drag(page, (20, 4), (60, 4))
    page.keyboard.press("v")
    click(page, 40, 52)
    page.keyboard.press("b")
    page.keyboard.press("c")  # void only: the sky stays where it is
    drag(page, (20, 4), (60, 4), (60, 20))
    page.keyboard.press("v")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("0")  # void
    for corner in ((30, -1), (33, -1), (33, 61), (30, 61)):
        click(page, *corner)
    page.keyboard.press("Enter")
    page.keyboard.press("v")
    click(page, 5, 5)
    page.keyboard.press("s")
    expect(page.locator("#legend button", has_text="sky")).to_have_count(2)
    before = legend(page)
    page.keyboard.press("Control+s")
    wait_until_saved(page)
    ids = ids_of_revision(saved(table, "002.jpg"))
    original = ids_of(number)
    assert (ids[:, 30:33] == 0).all()
    assert ids[4, 25] == 2
    assert ids[20, 60] == original[20, 60]  # over void only
    kinds = [each.kind for each in saved(table, "002.jpg").operations]
    assert kinds == ["erase", "draw", "erase", "split"]

    page.keyboard.down("Shift")
    click(page, 5, 5)
    page.keyboard.up("Shift")
    page.keyboard.press("m")
    expect(page.locator("#legend button", has_text="sky")).to_have_count(1)
    page.keyboard.press("u")
    assert legend(page) == before
    for _ in range(4):
        page.keyboard.press("Control+z")
    page.keyboard.press("Control+s")
    expect(page.locator("#save-state")).to_have_attribute("data-state", "saved")
    expect(page.locator("#said")).to_contain_text("saved at")
    assert (ids_of_revision(saved(table, "002.jpg")) == original).all()
    state = model_state(table, "002.jpg")
    assert [s.rle for s in saved(table, "002.jpg").segments] == [s.rle for s in state.segments]


def test_the_second_best_label_is_one_key_away(page: Any) -> None:
    def answer(route: Any) -> None:
        state = route.fetch().json()
        state["segments"][0] |= {"second_label_id": 3, "second_label": "boat, rowing",
                                 "second_score": 0.25}  # fmt: skip
        route.fulfill(json=state)

    page.route("**/api/segments**", answer)
    open_image(page, "010.jpg")
    click(page, 40, 5)
    expect(page.locator("#selected-facts")).to_contain_text("second best: boat, rowing 0.25")
    page.keyboard.press("t")
    expect(page.locator("#selected-name")).to_have_text("boat, rowing 1")


def test_a_server_that_is_killed_loses_nothing_of_a_draft(
    page: Any, server: PageServer, table: TableStore
) -> None:
    open_image(page, "006.jpg")
    relabel(page, at=(40, 5), label="car")
    click(page, 40, 52)
    page.keyboard.press("b")
    drag(page, (10, 10), (60, 10))
    server.kill()
    drag(page, (10, 14), (60, 14))
    page.keyboard.press("a")
    notice = page.locator(".notice", has_text="006.jpg")
    expect(notice).to_contain_text("Not saved yet: the server does not answer")
    server.start()
    page.goto(server.opening_address)
    wait_for_grid(page)
    # The next page saves what was accepted while the server was away.
    open_image(page, "006.jpg")
    wait_until_saved(page)
    revision = saved(table, "006.jpg")
    assert revision.status == "corrected"
    assert revision.segments[0].label == "car"
    ids = ids_of_revision(revision)
    assert (ids[10, 12:58] == 2).all()
    assert (ids[14, 12:58] == 2).all()
    assert [each.kind for each in revision.operations] == ["relabel", "draw", "draw"]


def test_a_draft_survives_a_closed_tab_with_what_was_undone(page: Any) -> None:
    open_image(page, "007.jpg")
    relabel(page, at=(40, 5), label="car")
    relabel(page, at=(40, 52), label="boat")
    page.keyboard.press("u")
    expect(page.locator("#save-state")).to_have_text("Draft kept in this browser")
    another = page.context.new_page()
    page.close()
    another.goto(page.url)
    shown(another, "007.jpg")
    expect(another.locator(".notice")).to_contain_text("Your draft of this image is here again")
    expect(another.locator("#legend button", has_text="car 1")).to_have_count(1)
    expect(another.locator("#legend button", has_text="tree 2")).to_have_count(1)
    another.keyboard.press("y")
    expect(another.locator("#legend button", has_text="boat, rowing 2")).to_have_count(1)


def test_a_draft_that_cannot_be_stored_is_told(page: Any) -> None:
    open_image(page, "005.jpg")
    page.evaluate("""() => {
        IDBObjectStore.prototype.put = () => { throw new Error('no room left') };
    }""")
    relabel(page, at=(40, 5), label="car")
    expect(page.locator("#save-state")).to_have_text("Draft not stored")
    expect(page.locator(".notice")).to_contain_text("could not be stored: no room left")


def test_a_keyboard_is_enough_from_the_grid_to_what_is_saved(page: Any, table: TableStore) -> None:
    tile(page, "000.jpg").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(tile(page, "008.jpg")).to_be_focused()
    page.keyboard.press("Enter")
    shown(page, "008.jpg")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("r")
    page.keyboard.type("bo")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("b")
    for key in ("Space", "ArrowRight", "ArrowRight", "Space"):
        page.keyboard.press(key)
    page.keyboard.press("f")
    page.keyboard.type("a ball or a boat?")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    shown(page, "009.jpg")
    page.keyboard.press("x")
    shown(page, "010.jpg")
    page.keyboard.press("p")
    shown(page, "009.jpg")
    expect(page.locator("#badge")).to_have_text("Unusable")
    page.keyboard.press("p")
    shown(page, "008.jpg")
    expect(page.locator("#comment")).to_have_text("a ball or a boat?")
    flagged = saved(table, "008.jpg")
    assert (flagged.status, flagged.comment) == ("flagged", "a ball or a boat?")
    assert [each.kind for each in flagged.operations] == ["relabel", "draw"]
    assert saved(table, "009.jpg").status == "unusable"
    page.keyboard.press("Escape")
    wait_for_grid(page)
    expect(page.locator("#progress")).to_contain_text("reviewed")
    expect(tile(page, "009.jpg").locator(".badge")).to_have_text("Unusable")


def test_a_held_key_hides_the_segments(page: Any) -> None:
    open_image(page, "010.jpg")
    overlay = page.locator("#overlay")
    page.keyboard.down("h")
    expect(overlay).to_be_hidden()
    page.keyboard.up("h")
    expect(overlay).to_be_visible()
    drawn = "document.getElementById('overlay').toDataURL()"
    pictures = [page.evaluate(drawn)]
    for key in ("o", "}", "+"):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        pictures.append(page.evaluate(drawn))
    assert len(set(pictures)) == 4


def test_markup_in_an_image_id_is_text(page: Any, table: TableStore) -> None:
    open_image(page, MARKUP)
    page.keyboard.press("x")
    expect(tile(page, MARKUP).locator(".badge")).to_have_text("Unusable")
    assert saved(table, MARKUP).status == "unusable"
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(page: Any, scheme: str) -> None:
    def check(what: str) -> None:
        assert violations(page) == [], what

    page.emulate_media(color_scheme=scheme)
    check("grid")
    open_image(page, "011.jpg")
    page.keyboard.press("ArrowDown")
    check("image")
    for key, what in (("r", "picker"), ("f", "flag"), ("?", "keys")):
        page.keyboard.press(key)
        check(what)
        page.keyboard.press("Escape")
    page.keyboard.press("b")
    page.keyboard.press("0")
    check("brush")


def test_large_images_are_quick(page: Any) -> None:
    open_image(page, "2mp.jpg")
    cold = measured_ms(page, "image on screen")[-1]
    page.keyboard.press("Escape")
    wait_for_grid(page)
    open_image(page, "2mp.jpg")
    warm = measured_ms(page, "image on screen")[-1]
    print(f"figure: 2 megapixels, 60 segments on screen: {cold:.0f} ms, again {warm:.0f} ms")
    page.keyboard.press("Escape")
    wait_for_grid(page)
    open_image(page, "12mp.jpg")
    print(f"figure: 12 megapixels on screen: {measured_ms(page, 'image on screen')[-1]:.0f} ms")
    click(page, 100, 100)
    page.keyboard.press("b")
    page.locator("#brush-size").fill("20")
    drag(page, (300, 300), (3500, 400), (3500, 2500), (300, 2400), steps=40)
    moves = np.array(measured_ms(page, "brush move"))
    print(f"figure: brush of 40 pixels at 12 megapixels: median {np.median(moves):.2f} ms, "
          f"worst {moves.max():.2f} ms of {len(moves)}")  # fmt: skip
    assert np.median(moves) < 16
    page.keyboard.press("Control+s")
    wait_until_saved(page)
