"""The grid: what it lists, in which orders and with which filters."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from page_clients import PageClient, opened_page, submission, with_label
from photo_tables import LABELS, box_photo, encoded, label_corpus, make_table

from pipeline.review_page.reviewed_state import ReviewedState
from pipeline.review_page.settings import ReviewSettings
from pipeline.review_page.view import TableView
from pipeline.reviews.log import DamagedRevision
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve images, a queue of three and an agreement with another table."""
    folder = tmp_path_factory.mktemp("grid")
    make_table(folder, count=12)
    queue = {
        "image_id": ["007.jpg", "002.jpg", "gone.jpg", "011.jpg"],
        "rank": [1, 2, 3, 4],
        "reasons": [["unsure: sky, 0.51"], [], None, ["rare label: Füße"]],
    }
    pq.write_table(
        pa.table(queue, schema=pa.schema([
            ("image_id", pa.string()), ("rank", pa.int64()), ("reasons", pa.list_(pa.string()))
        ])),
        folder / "queue.parquet",
    )  # fmt: skip
    agreement = {
        "image_id": [f"{number:03}.jpg" for number in range(10)],
        "disagreement": pa.array([0.1 * n for n in range(9)] + [None], pa.float32()),
    }
    (folder / "comparison" / "agreement").mkdir(parents=True)
    pq.write_table(pa.table(agreement), folder / "comparison" / "agreement" / "00000.parquet")
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> Iterator[tuple[PageClient, TableView]]:
    with opened_page(
        f"{folder}/table",
        review=ReviewSettings(queue=f"{folder}/queue.parquet"),
        agreement=f"{folder}/comparison",
    ) as opened:
        yield opened


@pytest.fixture
def client(opened: tuple[PageClient, TableView]) -> PageClient:
    return opened[0]


def ids(client: PageClient, **query: object) -> list[str]:
    answer = client.get("/api/images", **query)
    assert answer.status == 200, answer.body
    assert answer.json["total"] >= len(answer.json["images"])
    return [image["image_id"].removesuffix(".jpg") for image in answer.json["images"]]


def test_the_table_is_described_with_counts_beside_each_label(client):
    about = client.get("/api/table").json
    assert [label["name"] for label in about["labels"]] == list(LABELS)
    assert {label["name"]: label["segments"] for label in about["labels"]} == {
        "car": 4, "sky": 12, "tree": 12, "boat, rowing": 4, "Füße": 4,
    }  # fmt: skip
    assert [label["is_thing"] for label in about["labels"]] == [True, False, False, True, True]
    assert about["task"] == "panoptic"
    assert (about["reviewer"], about["can_save"], about["queue"]) == ("ana", True, True)
    assert about["queue_missing"] == 1
    assert about["counts"]["unreviewed"] == about["images"] == 12
    assert about["sorts"] == [
        "queue", "disagreement", "name", "mean_score", "coverage", "strangeness", "saved_at",
    ]  # fmt: skip


def test_the_queue_comes_in_its_order_with_its_reasons_and_nothing_else(client):
    assert ids(client) == ids(client, sort="queue") == ["007", "002", "011"]
    images = client.get("/api/images").json["images"]
    assert [image["rank"] for image in images] == [1, 2, 4]
    assert [image["reasons"] for image in images] == [
        ["unsure: sky, 0.51"], [], ["rare label: Füße"],
    ]  # fmt: skip


def test_images_are_sorted_by_each_column_and_those_without_a_value_come_last(client):
    everything = [f"{number:03}" for number in range(12)]
    assert ids(client, sort="name") == everything
    assert ids(client, sort="name", descending=1) == everything[::-1]
    by_score = ids(client, sort="mean_score")
    assert by_score[0] == "009"
    assert set(ids(client, sort="mean_score", descending=1)[:2]) == {"000", "010"}
    unlike = ids(client, sort="disagreement", descending=1)
    assert unlike[:9] == everything[8::-1]
    assert set(unlike[9:]) == {"009", "010", "011"}
    assert ids(client, sort="disagreement")[:9] == everything[:9]
    strange = client.get("/api/images", sort="strangeness", descending=1).json["images"]
    values = [image["strangeness"] for image in strange]
    assert values == sorted(values, reverse=True)
    assert values[0] > 1, "the lowest mean score is farther out than one in twenty"
    assert sorted(ids(client, sort="coverage")) == everything


def test_labels_are_found_by_name_and_id_within_a_range_of_scores(client):
    boats = ids(client, sort="name", label="boat, rowing")
    assert boats == ids(client, sort="name", label="3") == ["001", "004", "007", "010"]
    unsure = ids(client, sort="name", label="boat, rowing", max_score=0.8)
    assert unsure == ["004", "007"]
    assert ids(client, sort="name", label="boat, rowing", min_score=0.81) == ["001", "010"]
    assert ids(client, sort="name", max_score=0.72) == ["007", "008", "009"], "of the mean score"
    assert ids(client, label="boat, rowing") == ["007"], "within the queue"


def test_the_grid_comes_in_parts(client):
    answer = client.get("/api/images", sort="name", offset=4, limit=3).json
    assert answer["total"] == 12
    assert [image["image_id"] for image in answer["images"]] == ["004.jpg", "005.jpg", "006.jpg"]
    assert ids(client, sort="name", offset=99) == []
    empty = client.get("/api/images", sort="name", limit=0).json
    assert (empty["total"], empty["images"]) == (12, [])


@pytest.mark.parametrize(
    ("query", "rule"),
    [
        ({"sort": "colour"}, "sort must be one of queue"),
        ({"label": "ship"}, "label must be one of"),
        ({"label": "99"}, "label must be one of"),
        ({"min_score": "high"}, "min_score must be a number"),
        ({"max_score": "nan"}, "max_score must be a number"),
        ({"offset": "-1"}, "offset must be a whole number"),
        ({"limit": "100000"}, "limit must be a whole number"),
        ({"status": "fine"}, "status must be of"),
        ({"descending": "yes"}, "descending must be 0 or 1"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_in_words(client, query, rule):
    answer = client.get("/api/images", **query)
    assert answer.status == 400
    assert rule in answer.json["error"]


def test_reviews_show_in_states_reviewers_labels_and_counts(folder, tmp_path):
    # A folder of its own, so that the other tests' table stays as it is.
    reviews = str(tmp_path / "reviews")
    with opened_page(f"{folder}/table", reviews=reviews, reviewer="ana") as (client, _view):
        for number, status in enumerate(["accepted", "corrected", "flagged", "unusable"]):
            state = client.get("/api/segments", image_id=f"{number:03}.jpg").json
            changes = {"status": status}
            if status == "corrected":
                changes["segments"] = with_label(state, 3, "car")
            saved = client.post("/api/revisions", submission(state, **changes))
            assert saved.status == 201, saved.body
        about = client.get("/api/table").json
        assert about["counts"] == {
            "unreviewed": 8, "accepted": 1, "corrected": 1, "unusable": 1, "flagged": 1, "stale": 0,
        }  # fmt: skip
        counts = {label["name"]: label["segments"] for label in about["labels"]}
        assert (counts["car"], counts["boat, rowing"]) == (5, 3)
        assert ids(client, status="accepted,flagged") == ["000", "002"]
        assert len(ids(client, status="unreviewed")) == 8
        assert ids(client, reviewer="ana") == ["000", "001", "002", "003"]
        assert ids(client, reviewer="ben") == []
        assert "001" in ids(client, label="car")
        assert "001" not in ids(client, label="boat, rowing")
        assert "001" not in ids(client, label="car", min_score=0.1), "a person gave no score"
        newest_first = ids(client, sort="saved_at", descending=1)
        assert newest_first[:4] == ["003", "002", "001", "000"]
        image = client.get("/api/images", sort="name", offset=1, limit=1).json["images"][0]
        assert (image["status"], image["reviewer"], image["revision"]) == ("corrected", "ana", 1)
        assert image["saved_at"].startswith("20")
    # Another server, as tomorrow: everything is there again.
    with opened_page(f"{folder}/table", reviews=reviews, reviewer=None) as (client, _):
        again = client.get("/api/table").json
        assert again["counts"] == about["counts"]
        assert again["labels"] == about["labels"]
        assert (again["can_save"], again["reviewer"], again["reviewers"]) == (False, None, ["ana"])


def test_a_damaged_revision_hides_no_other(folder, tmp_path):
    reviews = str(tmp_path / "reviews")
    with opened_page(f"{folder}/table", reviews=reviews) as (client, view):
        for number in range(3):
            state = client.get("/api/segments", image_id=f"{number:03}.jpg").json
            client.post("/api/revisions", submission(state, status="accepted"))
        Path(view.log.file("001.jpg", 1)).write_bytes(b"no Parquet")
        fresh = ReviewedState(view.now.index, view.log, spec=view.spec)
        with pytest.raises(DamagedRevision):
            fresh.refresh()
        assert fresh.is_loaded
        assert fresh.counts()["accepted"] == 2
        answer = client.get("/api/segments", image_id="001.jpg")
        assert answer.status == 500
        assert "see maskformer verify" in answer.json["error"]


def test_of_an_image_that_was_labelled_again_only_the_latest_rows_count(tmp_path):
    table = make_table(tmp_path, count=6)
    changed = encoded(box_photo(77, height=40, width=40))
    Storage().write(f"{tmp_path}/corpus/002.jpg", changed)
    Storage().write(f"{tmp_path}/corpus/broken.jpg", b"no image at all")
    label_corpus(f"{tmp_path}/corpus", table.uri, run_id="night-2")
    with opened_page(table.uri) as (client, _view):
        about = client.get("/api/table").json
        assert (about["images"], about["images_in_error"]) == (6, 1)
        assert sum(label["segments"] for label in about["labels"]) == 18
        image = client.get("/api/images", offset=2, limit=1).json["images"][0]
        assert (image["image_id"], image["height"], image["width"]) == ("002.jpg", 40, 40)
        segments = client.get("/api/segments", image_id="002.jpg").json["segments"]
        assert sum(each["area"] for each in segments) == 38 * 40
        assert client.get("/api/segments", image_id="broken.jpg").status == 404


def test_rows_of_a_later_run_appear_when_the_page_is_loaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.review_page.api._RELOAD_SECONDS", 60)
    table = make_table(tmp_path, count=2)
    with opened_page(table.uri) as (client, view):
        state = client.get("/api/segments", image_id="000.jpg").json
        assert client.post("/api/revisions", submission(state, status="accepted")).status == 201
        before = client.get("/api/images", sort="name").json
        client.get("/")
        now = view.now
        Storage().write(f"{tmp_path}/corpus/002.jpg", encoded(box_photo(2)))
        label_corpus(f"{tmp_path}/corpus", table.uri, run_id="night-2")
        assert client.get("/api/images", sort="name").json == before
        assert view.now is now, "without a change nothing is read again"
        client.get("/")
        after = client.get("/api/images", sort="name").json
        assert (before["total"], after["total"]) == (2, 3)
        assert after["version"] != before["version"]
        assert after["version"] == client.get("/api/table").json["version"]
        assert [image["status"] for image in after["images"]] == ["accepted", None, None]
        assert client.get("/api/segments", image_id="002.jpg").json["segments"]
        assert client.get("/api/thumbnail", image_id="002.jpg").status == 200


def test_a_table_without_an_image_is_an_empty_grid(tmp_path):
    Path(tmp_path / "corpus").mkdir()
    Storage().write(f"{tmp_path}/corpus/broken.jpg", b"no image at all")
    table = label_corpus(f"{tmp_path}/corpus", f"{tmp_path}/table")
    with opened_page(table.uri) as (client, _):
        nothing = client.get("/api/images").json
        assert (nothing["total"], nothing["images"]) == (0, [])
        assert client.get("/api/table").json["images_in_error"] == 1
