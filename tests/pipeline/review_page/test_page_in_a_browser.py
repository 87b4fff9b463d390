"""The page in Chromium without a window: what a person sees and does, from grid to saved."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from photo_tables import LABELS, encoded, ids_of, label_corpus, make_table, photo, write_corpus
from ports import free_ports
from s3 import KEY, SECRET, S3Server

from maskformer import decode_rle
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import Revision
from pipeline.storage import Storage
from pipeline.table.store import TableStore

NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES_OF_CHROMIUM)), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

from in_browser import (  # noqa: E402, I001
    MARKUP, click, drag, legend, measured_ms, open_image, shown, tile, wait_for_grid,
)  # fmt: skip
from page_server import PageServer  # noqa: E402

expect = playwright.expect
expect.set_options(timeout=30_000)  # a loaded machine is slow, and no failure
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
        photos.append(encoded(photo(number, height=height, width=width)))
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


@pytest.fixture(scope="module")
def other_server(table: TableStore) -> Iterator[PageServer]:
    """Serves the same table to another reviewer."""
    served = PageServer(table.uri, port=free_ports(1)[0], reviewer="ben")
    served.start()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def new_page(browser: Any, server: PageServer) -> Iterator[Callable[..., Any]]:
    """Opens a page as another person would, in a browser without cookies and drafts."""
    contexts, errors = [], []

    def new(of: PageServer = server) -> Any:
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
        page.goto(of.opening_address)
        wait_for_grid(page)
        return page

    yield new
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def page(new_page: Callable[[], Any]) -> Any:
    return new_page()


def saved(table: TableStore, image_id: str) -> Revision:
    revision = ReviewLog.of_table(table.uri, reviews=None, storage=Storage()).latest(image_id)
    assert revision is not None
    return revision


def ids_of_revision(revision: Revision) -> np.ndarray:
    ids = np.zeros((revision.height, revision.width), np.int32)
    for segment in revision.segments:
        ids[decode_rle(segment.rle, height=revision.height, width=revision.width)] = (
            segment.segment_id
        )
    return ids


def wait_until_saved(page: Any, by: str = "ana") -> None:
    expect(page.locator("#save-state")).to_contain_text(f"by {by}")
    expect(page.locator("#save-state")).to_have_attribute("data-state", "saved")


def test_the_grid_sorts_filters_and_counts(page: Any) -> None:
    expect(page.locator("#total")).to_have_text("15 images")
    counts = dict(
        zip(
            page.locator("#label-list .item-name").all_inner_texts()[1:],
            page.locator("#label-list .count").all_inner_texts(),
            strict=True,
        )
    )
    assert set(counts) == set(LABELS)
    assert counts["sky"] == str(13 + 2 * 12)
    page.get_by_label("Sort by").select_option("mean_score")
    facts = page.locator(".tile-facts")
    expect(facts.first).to_contain_text("score 0.56")
    scores = [float(text.rsplit("score ", 1)[1]) for text in facts.all_inner_texts()]
    assert scores == sorted(scores)
    page.get_by_role("button", name="Descending").click()
    expect(page.get_by_role("button", name="Descending")).to_have_attribute("aria-pressed", "true")
    page.locator("#label-list button", has_text="boat, rowing").click()
    expect(page.locator("#total")).to_have_text("6 images")
    page.get_by_label("Status", exact=True).select_option("flagged")
    expect(page.locator("#total")).to_have_text("0 images")
    page.go_back()
    expect(page.locator("#total")).to_have_text("6 images")
    print("first grid on screen (ms):", measured_ms(page, "grid on screen")[:1])


def test_a_hundred_thousand_images_are_a_few_elements(page: Any) -> None:
    def images(route: Any) -> None:
        query = dict(part.split("=") for part in route.request.url.split("?")[1].split("&"))
        offset = int(query["offset"])
        rows = [
            {"image_id": f"{n:06}.jpg", "height": 60, "width": 90, "num_segments": 3,
             "coverage": 1.0, "mean_score": 0.5, "strangeness": None, "disagreement": None,
             "rank": None, "reasons": [], "status": None, "reviewer": None, "revision": 0,
             "saved_at": None, "is_stale": False}
            for n in range(offset, min(offset + int(query["limit"]), 100_000))
        ]  # fmt: skip
        route.fulfill(json={"total": 100_000, "images": rows})

    page.route("**/api/images**", images)
    page.route("**/api/thumbnail**", lambda route: route.abort())
    page.reload()
    expect(page.locator("#total")).to_have_text("100,000 images")
    tile(page, "000000.jpg").focus()
    page.keyboard.press("End")
    expect(tile(page, "099999.jpg")).to_be_focused()
    page.locator("#grid").evaluate("grid => grid.scrollTop = grid.scrollHeight / 2")
    expect(page.locator(".tile-name").first).to_contain_text("049")
    assert page.locator(".tile").count() < 100


def test_a_save_without_a_change_gives_the_rows_it_came_from(page: Any, table: TableStore) -> None:
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


def test_changes_of_different_pixels_are_joined_and_both_are_named(
    new_page: Callable[..., Any], other_server: PageServer, table: TableStore
) -> None:
    first, second = new_page(), new_page(other_server)
    for each in (first, second):
        open_image(each, "003.jpg")
    expect(second.locator("#claim")).to_have_text("ana is at it")
    relabel(first, at=(40, 5), label="car")
    first.keyboard.press("Control+s")
    wait_until_saved(first)
    relabel(second, at=(40, 52), label="boat")
    second.keyboard.press("Control+s")
    expect(second.locator("#legend button", has_text="car 1")).to_have_count(1)
    expect(second.locator(".notice")).to_contain_text("joined with those of ana")
    assert legend(second) == legend_of(saved(table, "003.jpg"))
    revision = saved(table, "003.jpg")
    assert [s.label for s in revision.segments][:2] == ["car", "boat, rowing"]
    assert revision.reviewer == "ben"
    assert [(each.revision, each.reviewer) for each in revision.merged_with] == [(1, "ana")]


@pytest.mark.parametrize("choice", ["theirs", "yours"])
def test_of_two_reviews_of_the_same_pixels_a_person_chooses(
    choice: str, new_page: Callable[..., Any], other_server: PageServer, table: TableStore
) -> None:
    image_id = {"theirs": "004.jpg", "yours": "005.jpg"}[choice]
    first, second = new_page(), new_page(other_server)
    for each in (first, second):
        open_image(each, image_id)
    relabel(first, at=(40, 5), label="car")
    first.keyboard.press("Control+s")
    wait_until_saved(first)
    relabel(second, at=(40, 5), label="boat")
    second.keyboard.press("a")
    second.get_by_role("button", name="Compare").click()
    expect(second.locator("#conflict-text")).to_contain_text("ana saved")
    expect(second.locator("#theirs-facts")).to_have_text("car 1")
    expect(second.locator("#yours-facts")).to_have_text("boat, rowing 1")
    assert violations(second) == []
    second.get_by_role(
        "button", name={"theirs": "Keep theirs", "yours": "Save yours on top"}[choice]
    ).click()
    expect(second.locator(".notice")).to_have_count(0)
    second.keyboard.press("p")
    shown(second, image_id)
    label = {"theirs": "car", "yours": "boat, rowing"}[choice]
    expect(second.locator("#legend button", has_text=f"{label} 1")).to_have_count(1)
    revision = saved(table, image_id)
    assert revision.revision == {"theirs": 1, "yours": 2}[choice]
    assert revision.segments[0].label == label


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
    expect(page.locator(".notice")).to_contain_text(["006.jpg"])
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


def test_a_gallery_shows_and_changes_nothing(page: Any) -> None:
    def answer(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | {"can_save": False, "reviewer": None})

    page.route("**/api/table", answer)
    page.reload()
    wait_for_grid(page)
    open_image(page, "011.jpg")
    click(page, 40, 5)
    expect(page.locator("#selected-name")).to_have_text("sky 1")
    for key in ("r", "Delete", "1", "a", "Control+s"):
        page.keyboard.press(key)
    expect(page.locator("#selected-name")).to_have_text("sky 1")
    expect(page.get_by_role("button", name="Relabel")).to_be_hidden()
    expect(page.locator("#save-state")).to_be_empty()


def test_large_images_are_quick(page: Any) -> None:
    open_image(page, "2mp.jpg")
    cold = measured_ms(page, "image on screen")[-1]
    page.keyboard.press("Escape")
    wait_for_grid(page)
    open_image(page, "2mp.jpg")
    warm = measured_ms(page, "image on screen")[-1]
    print(f"2 megapixels, 60 segments on screen: {cold:.0f} ms, again {warm:.0f} ms")
    page.keyboard.press("Escape")
    wait_for_grid(page)
    open_image(page, "12mp.jpg")
    print(f"12 megapixels on screen: {measured_ms(page, 'image on screen')[-1]:.0f} ms")
    click(page, 100, 100)
    page.keyboard.press("b")
    page.locator("#brush-size").fill("20")
    drag(page, (300, 300), (3500, 400), (3500, 2500), (300, 2400), steps=40)
    moves = np.array(measured_ms(page, "brush move"))
    print(f"brush of 40 pixels at 12 megapixels: median {np.median(moves):.2f} ms, "
          f"worst {moves.max():.2f} ms of {len(moves)}")  # fmt: skip
    assert np.median(moves) < 16
    page.keyboard.press("Control+s")
    wait_until_saved(page)


def test_a_table_in_object_storage_is_reviewed_without_its_credentials(
    browser: Any, s3: S3Server, s3_storage: Storage
) -> None:
    table = make_table("s3://test/page", count=3, storage=s3_storage)
    server = PageServer(
        table.uri, port=free_ports(1)[0], environment=s3.environment, reviewer="ana"
    )
    server.start()
    context = browser.new_context()
    try:
        page = context.new_page()
        answers: list[bytes] = []
        page.on("response", lambda response: response.ok and answers.append(response.body()))
        page.goto(server.opening_address)
        wait_for_grid(page)
        open_image(page, "001.jpg")
        assert page.evaluate("document.getElementById('photo').naturalWidth") == WIDTH
        relabel(page, at=(40, 5), label="car")
        page.keyboard.press("Control+s")
        wait_until_saved(page)
        log = ReviewLog.of_table(table.uri, reviews=None, storage=s3_storage)
        revision = log.latest("001.jpg")
        assert revision is not None
        assert revision.segments[0].label == "car"
        assert len(answers) > 20
        for secret in (KEY, SECRET):
            assert not any(secret.encode() in answer for answer in answers)
    finally:
        context.close()
        server.stop()


def violations(page: Any) -> list[tuple[str, str]]:
    """Returns the rules of axe-core that the page breaks, each with an element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


def relabel(page: Any, *, at: tuple[float, float], label: str) -> None:
    click(page, *at)
    page.keyboard.press("r")
    page.get_by_placeholder("type to search").fill(label)
    page.keyboard.press("Enter")
    expect(page.locator("#selected-name")).to_contain_text(label)


def legend_of(revision: Revision) -> list[str]:
    return sorted(f"{each.label} {each.segment_id}" for each in revision.segments)
