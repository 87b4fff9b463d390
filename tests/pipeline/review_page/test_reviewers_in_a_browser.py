"""Several reviewers in Chromium, and tables in object storage that fails at times."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from page_clients import opened_page
from photo_tables import make_table
from ports import free_ports
from s3 import KEY, SECRET, S3Server
from s3_proxy import s3_proxy

pytest.importorskip("playwright.sync_api")

from in_browser import (  # noqa: I001
    expect, legend, open_image, relabel, saved, shown, violations, wait_for_grid, wait_until_saved,
)  # fmt: skip
from page_server import PageServer

from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import Revision
from pipeline.storage import Storage
from pipeline.table.store import TableStore


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    return make_table(tmp_path_factory.mktemp("reviewers"), count=7)


@pytest.fixture(scope="module")
def addresses(table: TableStore) -> Iterator[tuple[str, str]]:
    """Serves the same table to two reviewers, each by a server of their own."""
    with (
        opened_page(table.uri, reviewer="ana") as (ana, _),
        opened_page(table.uri, reviewer="ben") as (ben, _),
    ):
        yield ana.opening_address, ben.opening_address


@pytest.fixture
def pages(new_page: Callable[[str], Any], addresses: tuple[str, str]) -> tuple[Any, Any]:
    return new_page(addresses[0]), new_page(addresses[1])


def test_two_browsers_that_change_different_pixels_are_joined_and_both_are_named(
    pages: tuple[Any, Any], table: TableStore
) -> None:
    first, second = pages
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
    choice: str, pages: tuple[Any, Any], table: TableStore
) -> None:
    image_id = {"theirs": "004.jpg", "yours": "005.jpg"}[choice]
    first, second = pages
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
        assert page.evaluate("document.getElementById('photo').naturalWidth") == 90
        relabel(page, at=(40, 5), label="car")
        page.keyboard.press("Control+s")
        wait_until_saved(page)
        assert saved(table, "001.jpg", s3_storage).segments[0].label == "car"
        assert len(answers) > 20
        for secret in (KEY, SECRET):
            assert not any(secret.encode() in answer for answer in answers)
    finally:
        context.close()
        server.stop()


@pytest.mark.parametrize(
    ("rate", "count"),
    [
        (0.2, 3),
        pytest.param(0.05, 30, marks=pytest.mark.faults),
        pytest.param(0.2, 30, marks=pytest.mark.faults),
    ],
)
def test_faults_of_storage_lose_no_correction_and_double_none(
    rate: float, count: int, new_page: Callable[[str], Any], s3: S3Server, s3_storage: Storage
) -> None:
    table = make_table(f"s3://test/faulty-page-{rate}-{count}", count=count, storage=s3_storage)
    with s3_proxy(s3, rate=rate, seed=count) as proxy:
        proxy.kinds = ("lost answer", "reset", "internal error", "slow down", "truncated")
        storage = Storage(
            endpoint_url=proxy.endpoint_url, region="us-east-1", key=KEY, secret=SECRET
        )
        with opened_page(table.uri, storage=storage) as (client, _):
            page = new_page(client.opening_address)
            open_image(page, "000.jpg")
            for number in range(count):
                shown(page, f"{number:03}.jpg")
                relabel(page, at=(40, 5), label="car")
                page.keyboard.press("a")
            wait_for_grid(page)
            expect(page.locator(".notice")).to_contain_text("This was the last image.")
            expect(page.locator("#progress")).to_have_text(f"{count} of {count} reviewed")
    assert proxy.faults.total() > 0
    print(f"figure: {count} corrections, {proxy.faults.total()} faults at {rate:.0%}")
    log = ReviewLog.of_table(table.uri, reviews=None, storage=s3_storage)
    for number in range(count):
        (revision,) = log.history(f"{number:03}.jpg")
        assert revision.segments[0].label == "car"
        assert (revision.status, revision.reviewer) == ("corrected", "ana")


def legend_of(revision: Revision) -> list[str]:
    return sorted(f"{each.label} {each.segment_id}" for each in revision.segments)
