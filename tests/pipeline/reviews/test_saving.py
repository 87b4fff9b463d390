"""Two reviewers at one image: different changes are joined, others conflict, none is lost."""

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
from drawn_reviews import NOON, looked_at, relabelled
from drawn_tables import SPEC

from maskformer import decode_rle
from pipeline.reviews.changes import changes_between
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import MergedRevision, ReviewedSegment, Revision
from pipeline.reviews.rules import broken_rules
from pipeline.reviews.saving import Conflict, save
from pipeline.reviews.shapes import rle_of_mask, shape_of_rle
from pipeline.storage import Storage

STORAGE = Storage()
IMAGE = "a/0000.jpg"


def revision_id_map(segments, revision) -> np.ndarray:
    ids = np.zeros((revision.height, revision.width), np.int64)
    for segment in segments:
        ids[decode_rle(segment.rle, height=revision.height, width=revision.width)] = (
            segment.segment_id
        )
    return ids


def revision_label_map(segments, revision) -> np.ndarray:
    ids = revision_id_map(segments, revision)
    labels = np.array([-1] * (ids.max() + 1))
    for segment in segments:
        labels[segment.segment_id] = segment.label_id
    return labels[ids]


def of_map(ids: np.ndarray, known: dict[int, ReviewedSegment]) -> tuple[ReviewedSegment, ...]:
    """The segments of a map of ids; a number that is not known is a drawn car."""
    drawn = ReviewedSegment(
        segment_id=0, label_id=0, label="car", is_thing=True, area=0, bbox_x=0, bbox_y=0,
        bbox_w=0, bbox_h=0, rle="", origin="human",
    )  # fmt: skip
    found = []
    for number in sorted(set(ids.ravel().tolist()) - {0}):
        rle = rle_of_mask(ids == number)
        shape = asdict(shape_of_rle(rle, height=ids.shape[0], width=ids.shape[1]))
        base = known.get(number, dataclasses.replace(drawn, segment_id=number))
        found.append(dataclasses.replace(base, rle=rle, **shape))
    return tuple(found)


def paint_columns(revision: Revision, columns: slice, number: int) -> tuple[ReviewedSegment, ...]:
    ids = revision_id_map(revision.segments, revision)
    ids[:, columns] = number
    return of_map(ids, {each.segment_id: each for each in revision.segments})


def corrected(first: Revision, reviewer: str, segments, **changes) -> Revision:
    return first.replace(status="corrected", reviewer=reviewer, segments=segments, **changes)


def test_a_first_save_has_number_1_and_counts_what_changed(table, log):
    first = looked_at(table, IMAGE)
    saved = save(log, corrected(first, "anna", paint_columns(first, slice(0, 2), 9)), base=None)
    assert (saved.revision, saved.parent_revision) == (1, 0)
    again = save(log, saved.replace(parent_revision=1, segments=first.segments), base=lambda: ())
    assert again.revision == 2
    before, after = revision_id_map(saved.segments, first), revision_id_map(again.segments, first)
    assert again.changed_pixels == np.count_nonzero(before != after) > 0
    assert log.latest(IMAGE) == again


def test_saves_of_different_pixels_are_joined_and_both_are_named(table, log):
    first = looked_at(table, IMAGE)
    theirs = save(log, corrected(first, "anna", paint_columns(first, slice(0, 2), 9)))
    mine = corrected(first, "ben", paint_columns(first, slice(3, 5), 9), comment="mast")
    joined = save(log, mine)
    assert isinstance(joined, Revision)
    assert (joined.revision, joined.parent_revision) == (2, 1)
    assert joined.merged_with == (MergedRevision(revision=1, reviewer="anna"),)
    assert joined.reviewer == "ben"
    expected = revision_label_map(first.segments, first)
    expected[:, 0:2] = expected[:, 3:5] = 0
    assert (revision_label_map(joined.segments, first) == expected).all()
    # Both drew a new segment with the same number: they stay two.
    assert len([each for each in joined.segments if each.origin == "human"]) >= 2
    assert list(broken_rules(joined, spec=SPEC)) == []
    assert log.history(IMAGE) == [theirs, joined]


def test_changes_of_the_same_pixels_conflict_and_both_stay(table, log):
    first = looked_at(table, IMAGE)
    theirs = save(log, corrected(first, "anna", paint_columns(first, slice(0, 3), 9)))
    mine = corrected(first, "ben", paint_columns(first, slice(2, 5), 9))
    conflict = save(log, mine)
    assert isinstance(conflict, Conflict)
    assert conflict.theirs == theirs
    assert conflict.yours.segments == mine.segments
    assert log.history(IMAGE) == [theirs]
    assert [each.segments for each in log.branches(IMAGE)] == [mine.segments]
    save(log, mine)  # sent again
    assert len(log.branches(IMAGE)) == 1
    chosen = save(log, mine.replace(parent_revision=1))
    assert (chosen.revision, chosen.segments) == (2, mine.segments)
    assert log.history(IMAGE) == [theirs, chosen]


@pytest.mark.parametrize("theirs_status", ["unusable", "flagged"])
def test_statuses_that_say_different_things_conflict(table, log, theirs_status):
    first = looked_at(table, IMAGE)
    save(log, first.replace(status=theirs_status, reviewer="anna"))
    assert isinstance(save(log, first.replace(reviewer="ben")), Conflict)
    same = save(log, first.replace(status=theirs_status, reviewer="ben"))
    assert same.merged_with


def test_one_gives_a_label_while_the_other_draws_at_the_segment(table, log):
    first = looked_at(table, IMAGE)
    number = first.segments[0].segment_id
    save(log, corrected(first, "anna", relabelled(first.segments, number, "tree", 2)))
    ids = revision_id_map(first.segments, first)
    void = np.argwhere(ids == 0)[0]
    ids[tuple(void)] = number  # a pixel that anna did not change
    more = of_map(ids, {each.segment_id: each for each in first.segments})
    assert isinstance(save(log, corrected(first, "ben", more)), Conflict)


def test_a_save_that_is_sent_again_is_stored_once(table, log):
    first = looked_at(table, IMAGE)
    mine = corrected(first, "ben", paint_columns(first, slice(0, 2), 9))
    saved = save(log, mine)
    save(log, corrected(first, "anna", paint_columns(first, slice(3, 5), 9)))
    later = mine.replace(created_at=NOON.replace(hour=13), seconds=9.0)
    assert save(log, later) == saved
    # The joined one too, with what came behind it.
    anna = corrected(first, "anna", paint_columns(first, slice(3, 5), 9))
    assert save(log, anna).revision == 2
    assert log.numbers(IMAGE) == [1, 2]


def test_reviews_of_another_version_of_the_photograph_are_no_conflict(table, log):
    first = looked_at(table, IMAGE)
    save(log, corrected(first, "anna", paint_columns(first, slice(0, 3), 9)))
    other = corrected(first, "ben", paint_columns(first, slice(0, 3), 8), base_etag="changed")
    saved = save(log, other)
    assert (saved.revision, saved.parent_revision, saved.merged_with) == (2, 0, ())


def test_a_parent_must_exist(table, log):
    with pytest.raises(ValueError, match="the newest is 0"):
        save(log, looked_at(table, IMAGE).replace(parent_revision=1))


def test_segments_that_are_numbered_anew_have_not_changed(table):
    first = looked_at(table, IMAGE)
    size = {"height": first.height, "width": first.width}
    turned = [
        dataclasses.replace(each, segment_id=number)
        for number, each in enumerate(reversed(first.segments), start=1)
    ]
    changes = changes_between(first.segments, turned, **size)
    assert (changes.num_pixels, changes.changed, changes.removed, changes.added) == (
        0, frozenset(), frozenset(), (),
    )  # fmt: skip


def test_drawn_changes_are_joined_where_and_only_where_no_pixel_is_shared(table, log, tmp_path):
    first = looked_at(table, IMAGE)
    before = revision_id_map(first.segments, first)
    known = {each.segment_id: each for each in first.segments}
    outcomes = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        maps = []
        for new in (7, 8):
            ids = before.copy()
            for _ in range(random.integers(1, 3)):
                row, column = (int(random.integers(0, side)) for side in ids.shape)
                ids[row : row + 7, column : column + 7] = random.choice([0, 1, 2, new])
            maps.append(ids)
        changed = [ids != before for ids in maps]
        own = ReviewLog.of_table(table.uri, reviews=str(tmp_path / str(seed)), storage=STORAGE)
        for name, ids in zip(("anna", "ben"), maps, strict=True):
            result = save(own, corrected(first, name, of_map(ids, known)))
        if (changed[0] & changed[1]).any():
            assert isinstance(result, Conflict)
        elif isinstance(result, Revision):
            expected = np.where(changed[1], maps[1], np.where(changed[0], maps[0], before))
            assert (revision_id_map(result.segments, first) == expected).all()
            assert list(broken_rules(result, spec=SPEC)) == []
        outcomes.append(type(result))
    assert min(outcomes.count(Revision), outcomes.count(Conflict)) > 10


def test_eight_reviewers_at_once_lose_nothing(table, log):
    first = looked_at(table, IMAGE)
    width = first.width
    stripes = list(itertools.pairwise(np.linspace(0, width, 9).astype(int).tolist()))
    results = []

    def review(number: int) -> None:
        own = ReviewLog.of_table(table.uri, reviews=log.uri, storage=STORAGE)
        start, stop = stripes[number]
        drawn = paint_columns(first, slice(start, stop), 20 + number)
        results.append(save(own, corrected(first, f"reviewer-{number}", drawn)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(review, range(8)))
    history = log.history(IMAGE)
    assert [each.revision for each in history] == list(range(1, len(history) + 1))
    stored = {each.submission for each in (*history, *log.branches(IMAGE))}
    assert len(stored) == 8
    for result in results:
        if isinstance(result, Revision):
            assert log.read(IMAGE, result.revision) == result
