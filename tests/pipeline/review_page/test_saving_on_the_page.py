"""Saving: revisions, merges, conflicts, what is refused, and storage that is away."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from page_clients import PageClient, opened_page, submission, with_label
from photo_tables import HEIGHT, WIDTH, box_photo, encoded, label_corpus, make_table
from s3 import KEY, SECRET, S3Server
from s3_proxy import s3_proxy
from specs import panoptic_spec

from maskformer import decode_rle
from pipeline.maintenance.verify.tables import verify_table
from pipeline.review_page.settings import PageSettings, ReviewSettings
from pipeline.review_page.view import TableView
from pipeline.reviews.shapes import rle_of_mask
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PageClient, TableView]]:
    table = make_table(tmp_path_factory.mktemp("saving"), count=24)
    with opened_page(table.uri) as opened:
        yield opened


@pytest.fixture
def client(opened: tuple[PageClient, TableView]) -> PageClient:
    return opened[0]


@pytest.fixture
def image(request: pytest.FixtureRequest) -> str:
    """An image of the test's own."""
    request.config.stash.setdefault(_COUNT, [0])[0] += 1
    return f"{request.config.stash[_COUNT][0] - 1:03}.jpg"


_COUNT: pytest.StashKey[list[int]] = pytest.StashKey()


def state_of(client: PageClient, image: str) -> dict:
    answer = client.get("/api/segments", image_id=image)
    assert answer.status == 200, answer.body
    return answer.json


def painted(state: dict, segment_id: int, *, box: tuple[int, int, int, int]) -> list[dict]:
    """The segments of a submission after a brush gave a box to one of them."""
    top, left, bottom, right = box
    stroke = np.zeros((state["height"], state["width"]), bool)
    stroke[top:bottom, left:right] = True
    segments = submission(state)["segments"]
    for each in segments:
        mask = decode_rle(each["rle"], height=state["height"], width=state["width"])
        mask = mask | stroke if each["segment_id"] == segment_id else mask & ~stroke
        each["rle"] = rle_of_mask(mask)
    return segments


def test_a_save_without_a_change_gives_the_rows_it_came_from(client, image):
    before = state_of(client, image)
    assert (before["revision"], before["status"], before["is_stale"]) == (0, None, False)
    answer = client.post("/api/revisions", submission(before, status="accepted", comment=" fine "))
    assert answer.status == 201
    assert answer.json["revision"] == 1
    assert answer.json["reviewer"] == "ana"
    assert answer.json["merged_with"] is None
    after = state_of(client, image)
    assert after["segments"] == before["segments"]
    assert (after["status"], after["comment"], after["reviewer"]) == ("accepted", "fine", "ana")
    assert after["created_at"] == answer.json["created_at"]


def test_a_relabelled_segment_is_a_persons_and_has_no_score(client, image):
    before = state_of(client, image)
    answer = client.post(
        "/api/revisions", submission(before, segments=with_label(before, 3, "Füße"))
    )
    assert answer.status == 201
    segment = state_of(client, image)["segments"][2]
    assert (segment["label"], segment["label_id"], segment["is_thing"]) == ("Füße", 4, True)
    assert (segment["origin"], segment["origin_segment_id"], segment["score"]) == ("human", 3, None)
    old = before["segments"][2]
    for name in ("rle", "area", "bbox_x", "bbox_y", "bbox_w", "bbox_h"):
        assert segment[name] == old[name]


def test_areas_and_boxes_are_computed_and_what_the_page_says_of_them_does_not_count(client, image):
    before = state_of(client, image)
    segments = painted(before, 3, box=(2, 80, 12, 90))
    segments[2] |= {"area": 1, "bbox_x": 7, "score": 0.001, "label_id": 2, "is_thing": False}
    assert client.post("/api/revisions", submission(before, segments=segments)).status == 201
    after = state_of(client, image)["segments"]
    mask = decode_rle(after[2]["rle"], height=HEIGHT, width=WIDTH)
    assert after[2]["area"] == mask.sum() == before["segments"][2]["area"] + 100
    assert after[2]["bbox_x"] + after[2]["bbox_w"] == 90
    assert after[2]["score"] == before["segments"][2]["score"], "the model had given the label"
    assert after[2]["origin"] == "human"
    assert after[0]["area"] == before["segments"][0]["area"] - 100


def test_a_save_that_is_sent_again_is_not_doubled(client, image):
    before = state_of(client, image)
    content = submission(before, segments=with_label(before, 3, "tree"))
    first = client.post("/api/revisions", content)
    assert client.post("/api/revisions", content).json == first.json
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/api/revisions", content), range(8)))
    assert {answer.json["revision"] for answer in answers} == {1}
    assert state_of(client, image)["revision"] == 1


def test_changes_of_different_pixels_are_joined_and_both_are_named(opened, image):
    client, view = opened
    before = state_of(client, image)
    mine = submission(before, segments=painted(before, 3, box=(0, 0, 4, 4)), comment="left")
    theirs = submission(before, segments=painted(before, 2, box=(0, 80, 4, 90)), comment="right")
    assert client.post("/api/revisions", theirs).json["merged_with"] is None
    with opened_page(view.table.uri, reviewer="ben") as (of_ben, _):
        answer = of_ben.post("/api/revisions", mine)
    assert answer.status == 201
    assert (answer.json["revision"], answer.json["reviewer"]) == (2, "ben")
    assert answer.json["merged_with"] == [{"revision": 1, "reviewer": "ana"}]
    assert answer.json["comment"] == "right\nleft"
    after = state_of(client, image)
    assert after["segments"] == answer.json["segments"]
    masks = {
        each["segment_id"]: decode_rle(each["rle"], height=HEIGHT, width=WIDTH)
        for each in after["segments"]
    }
    assert masks[3][:4, :4].all()
    assert masks[2][:4, 80:].all()


def test_of_two_changes_of_the_same_the_second_learns_of_the_first_and_both_stay(opened, image):
    client, view = opened
    before = state_of(client, image)
    first = submission(before, segments=with_label(before, 3, "car"))
    second = submission(before, segments=with_label(before, 3, "sky"))
    assert client.post("/api/revisions", first).status == 201
    answer = client.post("/api/revisions", second)
    assert answer.status == 409
    theirs = answer.json["theirs"]
    assert theirs == state_of(client, image)
    assert theirs["segments"][2]["label"] == "car"
    assert [each.segments[2].label for each in view.log.branches(image)] == ["sky"]
    # Having seen both, the reviewer insists.
    insists = submission(theirs, segments=with_label(theirs, 3, "sky"))
    assert client.post("/api/revisions", insists).json["revision"] == 2
    assert [each.segments[2].label for each in view.log.history(image)] == ["car", "sky"]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"status": "fine"}, "status must be one of accepted, corrected"),
        ({"image_id": 7}, "image_id must be text"),
        ({"parent_revision": 9}, "parent_revision must be a revision of"),
        ({"parent_revision": -1}, "parent_revision must be a whole number"),
        ({"parent_revision": True}, "parent_revision must be a whole number"),
        ({"seconds": -1}, "seconds must be 0 or more"),
        ({"seconds": "long"}, "seconds must be 0 or more"),
        ({"comment": "x" * 5000}, "comment must be text of at most"),
        ({"comment": "\ud800"}, "UTF-8"),
        ({"segments": {}}, "segments must be a list"),
        ({"segments": [3]}, "segments must be a list of objects"),
        ({"operations": "brush"}, "operations must be a list"),
        ({"operations": [{"kind": "x" * 99}]}, "kind must be text"),
        ({"operations": [{"kind": "brush", "segment_ids": ["a"]}]}, "segment_ids must be a whole"),
    ],
)
def test_a_submission_of_another_form_is_refused_in_words(client, change, rule):
    answer = client.post("/api/revisions", {**submission(state_of(client, "020.jpg")), **change})
    assert answer.status == 400
    assert rule in answer.json["error"]
    assert state_of(client, "020.jpg")["revision"] == 0


def with_segment(**changes: object) -> dict:
    return {"segment_id": 9, "label": "car", "rle": "", "origin": "human", **changes}


@pytest.mark.parametrize(
    ("segment", "rule"),
    [
        (with_segment(label="ship"), "label must be one of the table's"),
        (with_segment(label="<img src=x onerror=alert(1)>"), "label must be one of the table's"),
        (with_segment(rle="0"), "segment 9"),
        (with_segment(rle="\x00\x7f"), "segment 9"),
        (with_segment(rle=rle_of_mask(np.ones((5, 5), bool))), "segment 9"),
        (with_segment(rle=rle_of_mask(np.zeros((HEIGHT, WIDTH), bool))), "not 0"),
        (with_segment(rle=rle_of_mask(np.ones((HEIGHT, WIDTH), bool))), "do not overlap"),
        (with_segment(rle=rle_of_mask(np.eye(HEIGHT, WIDTH) > 0), segment_id=3), "ascending"),
        (with_segment(segment_id=0), "segment_id must be a whole number from 1"),
        (with_segment(segment_id=2**40), "segment_id must be a whole number from 1"),
        (with_segment(rle=None), "rle must be text"),
    ],
)
def test_segments_that_break_a_rule_are_refused_and_nothing_is_saved(client, segment, rule):
    state = state_of(client, "021.jpg")
    content = submission(state)
    content["segments"].append(segment)
    answer = client.post("/api/revisions", content)
    assert answer.status == 400
    assert rule in answer.json["error"]
    assert state_of(client, "021.jpg")["revision"] == 0


def test_an_image_that_the_table_lacks_cannot_be_saved(client):
    state = state_of(client, "022.jpg")
    answer = client.post("/api/revisions", submission(state, image_id="other.jpg"))
    assert answer.status == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_malformed_json_is_refused(client, body):
    answer = client.post("/api/revisions", body)
    assert answer.status == 400
    assert "body must be" in answer.json["error"]


def test_a_body_beyond_all_reason_is_refused(client):
    answer = client.post("/api/revisions", b" " * (2**25 + 1))
    assert answer.status == 413
    assert answer.headers["Content-Type"].startswith("application/json")


def test_a_gallery_saves_nothing_and_claims_nothing(tmp_path):
    table = make_table(tmp_path, count=1)
    with opened_page(table.uri, reviewer=None) as (client, _):
        state = state_of(client, "000.jpg")
        assert client.post("/api/revisions", submission(state)).status == 403
        answer = client.post("/api/claims", {"image_id": "000.jpg"})
        assert answer.status == 403
        assert "maskformer review" in answer.json["error"]
    assert not Storage().file(f"{table.uri}/_reviews")
    assert list(Storage().files(f"{table.uri}/_reviews")) == []


def test_claims_tell_who_is_at_an_image_until_they_are_released(client):
    assert client.get("/api/claims", image_id="023.jpg").json["claims"] == []
    made = client.post("/api/claims", {"image_id": "023.jpg"}).json["claims"]
    assert [claim["reviewer"] for claim in made] == ["ana"]
    assert 80 < made[0]["seconds_left"] <= 90
    assert client.get("/api/claims", image_id="023.jpg").json["claims"][0]["reviewer"] == "ana"
    released = client.post("/api/claims", {"image_id": "023.jpg", "release": True})
    assert released.json["claims"] == []
    assert client.post("/api/claims", {"image_id": "none.jpg"}).status == 404
    assert client.post("/api/claims", {"image_id": 3}).status == 400
    assert client.post("/api/claims", [3]).status == 400


def test_a_table_with_saves_conflicts_and_claims_is_sound(opened):
    client, view = opened
    client.post("/api/claims", {"image_id": "019.jpg"})
    state = state_of(client, "019.jpg")
    for label in ("car", "sky"):
        client.post("/api/revisions", submission(state, segments=with_label(state, 3, label)))
    found = verify_table(view.table, sample=1.0, num_threads=1, most_examples=5)
    assert found.findings.counts == {}
    assert found.num_revisions > 0


def test_a_claim_ends_by_itself(opened, monkeypatch):
    client, _ = opened
    client.post("/api/claims", {"image_id": "023.jpg"})
    late = time.time() + 91
    monkeypatch.setattr(time, "time", lambda: late)
    assert client.get("/api/claims", image_id="023.jpg").json["claims"] == []


def test_a_review_of_another_version_of_the_photograph_is_stale_and_the_new_rows_are_shown(
    tmp_path,
):
    table = make_table(tmp_path, count=2)
    with opened_page(table.uri) as (client, _):
        state = state_of(client, "000.jpg")
        client.post("/api/revisions", submission(state, segments=with_label(state, 3, "tree")))
    Storage().write(f"{tmp_path}/corpus/000.jpg", encoded(box_photo(9, height=30, width=30)))
    label_corpus(f"{tmp_path}/corpus", table.uri, run_id="night-2")
    with opened_page(table.uri, reviewer="ben") as (client, _view):
        state = state_of(client, "000.jpg")
        assert (state["revision"], state["is_stale"], state["height"]) == (0, True, 30)
        assert state["reviewer"] == "ana"
        assert client.get("/api/table").json["counts"]["stale"] == 1
        assert client.get("/api/images", status="stale").json["total"] == 1
        answer = client.post("/api/revisions", submission(state, status="accepted"))
        assert answer.json["revision"] == 2, "kept behind the stale one"
        assert state_of(client, "000.jpg")["is_stale"] is False
        assert client.get("/api/table").json["counts"]["stale"] == 0


def test_reviews_are_laid_over_another_models_table_by_the_names_of_their_labels(tmp_path):
    first = make_table(tmp_path, count=3)
    with opened_page(first.uri) as (client, _):
        for image, label in (("000.jpg", "tree"), ("001.jpg", "Füße")):
            state = state_of(client, image)
            saved = client.post(
                "/api/revisions", submission(state, segments=with_label(state, 3, label))
            )
            assert saved.status == 201
    labels = ("other", "tree", "sky", "car", "boat, rowing")  # other ids, and one is gone
    spec = panoptic_spec(*labels, label_ids_to_fuse=(2,))
    second = label_corpus(f"{tmp_path}/corpus", f"{tmp_path}/second", spec=spec)
    with opened_page(second.uri, reviews=f"{first.uri}/_reviews") as (client, view):
        found = state_of(client, "000.jpg")
        assert found["revision"] == 1
        assert [each["label"] for each in found["segments"]] == ["sky", "tree", "tree"]
        assert [each["label_id"] for each in found["segments"]] == [2, 1, 1]
        assert [each["is_thing"] for each in found["segments"]] == [False, True, True]
        assert client.post("/api/revisions", submission(found)).json["revision"] == 2
        stale = state_of(client, "001.jpg")
        assert (stale["is_stale"], stale["revision"]) == (True, 1)
        saved = client.post("/api/revisions", submission(stale, status="accepted"))
        assert saved.json["revision"] == 2
        scores = [each["score"] for each in state_of(client, "001.jpg")["segments"]]
        assert None not in scores, "the model's rows were accepted as they are"
        assert client.get("/api/table").json["counts"]["stale"] == 0
        assert len(view.log.history("001.jpg")) == 2


def test_a_proxy_names_the_reviewer_where_it_is_trusted(tmp_path):
    table = make_table(tmp_path, count=1)
    review = ReviewSettings(reviewer_header="X-Forwarded-User")
    page = PageSettings(public_address="https://review.example.org")
    with opened_page(table.uri, review=review, page=page) as (client, _):
        state = state_of(client, "000.jpg")
        named = client.post(
            "/api/revisions", submission(state), headers={"X-Forwarded-User": "Zoë"}
        )
        assert named.json["reviewer"] == "Zoë"
        assert client.post("/api/revisions", submission(state)).status == 403


def test_storage_that_is_away_is_said_and_the_same_save_works_later(s3: S3Server):
    own = {"region": "us-east-1", "key": KEY, "secret": SECRET}
    place = "s3://test/saving-away"
    table = make_table(place, count=2, storage=Storage(endpoint_url=s3.endpoint_url, **own))
    with s3_proxy(s3) as proxy:
        storage = Storage(endpoint_url=proxy.endpoint_url, storage_attempts=2, **own)
        with opened_page(table.uri, storage=storage) as (client, view):
            content = submission(state_of(client, "001.jpg"), status="accepted")
            proxy.kinds, proxy.rate = ("internal error",), 1.0
            answer = client.post("/api/revisions", content)
            assert answer.status == 503
            assert "nothing is lost" in answer.json["error"]
            assert client.get("/api/segments", image_id="001.jpg").status == 503
            assert client.get("/api/images").status == 200, "what is in memory is still shown"
            proxy.rate = 0.0
            assert client.post("/api/revisions", content).json["revision"] == 1
            assert len(view.log.history("001.jpg")) == 1


def test_faults_of_storage_lose_no_save_and_double_none(s3: S3Server):
    """A tenth of the requests fail, half of these after they were done."""
    own = {"region": "us-east-1", "key": KEY, "secret": SECRET}
    place = "s3://test/saving-faults"
    table = make_table(place, count=6, storage=Storage(endpoint_url=s3.endpoint_url, **own))
    with s3_proxy(s3, seed=3) as proxy:
        storage = Storage(endpoint_url=proxy.endpoint_url, storage_attempts=3, **own)
        with opened_page(table.uri, storage=storage) as (client, view):
            states = [state_of(client, f"{number:03}.jpg") for number in range(6)]
            proxy.kinds, proxy.rate = ("lost answer", "reset", "internal error"), 0.1

            def save_until_it_works(state: dict) -> int:
                content = submission(state, segments=with_label(state, 3, "car"))
                for _ in range(20):
                    answer = client.post("/api/revisions", content)
                    if answer.status == 201:
                        return answer.json["revision"]
                    assert answer.status == 503, answer.body
                raise AssertionError("twenty tries were not enough")

            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(save_until_it_works, states)) == [1] * 6
            assert proxy.faults.total() > 0
            proxy.rate = 0.0
            for state in states:
                assert len(view.log.history(state["image_id"])) == 1
