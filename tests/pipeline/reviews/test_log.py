"""The log gives each number once, and gives back what was saved."""

import numpy as np
import pytest
from drawn_reviews import looked_at, relabelled

from pipeline.reviews.log import ReviewLog, RevisionTaken
from pipeline.reviews.revision import ReviewedSegment
from pipeline.storage import Storage

STORAGE = Storage()


def test_a_revision_is_read_as_it_was_saved(table, log):
    first = looked_at(table, "a/0000.jpg", comment="größer als 3, „Boot“", seconds=4.5)
    log.append(first)
    assert first.segments
    assert log.latest("a/0000.jpg") == first
    assert log.read("a/0000.jpg", 1) == first
    assert log.latest("a/0001.jpg") is None


def test_reviews_lie_inside_the_table_unless_told_otherwise(table):
    log = ReviewLog.of_table(table.uri, reviews=None, storage=STORAGE)
    assert log.uri == f"{table.uri}/_reviews"
    assert ReviewLog(log.uri, STORAGE).table == table.uri


def test_a_number_is_given_once_and_never_before_the_one_before_it(table, log):
    first = looked_at(table, "a/0000.jpg")
    log.append(first)
    log.append(first)  # sent again
    with pytest.raises(RevisionTaken):
        log.append(first.replace(reviewer="ben"))
    with pytest.raises(ValueError, match="must follow the newest one, which is 1"):
        log.append(first.replace(revision=3, parent_revision=2))
    assert log.history("a/0000.jpg") == [first]


def test_the_newest_revision_of_each_image_is_streamed_once(table, log):
    first = looked_at(table, "a/0000.jpg")
    other = looked_at(table, "b/0001.jpg")
    second = first.replace(
        revision=2, parent_revision=1, segments=relabelled(first.segments, 1, "sky", 1)
    )
    for each in (first, other, second):
        log.append(each)
    newest = {each.image_id: each for each in log.latest_revisions()}
    assert newest == {"a/0000.jpg": second, "b/0001.jpg": other}
    assert log.history("a/0000.jpg") == [first, second]


def test_a_score_is_what_a_file_holds():
    segment = ReviewedSegment(
        segment_id=1, label_id=0, label="car", is_thing=True, score=0.1, area=1,
        bbox_x=0, bbox_y=0, bbox_w=1, bbox_h=1, rle="0",
    )  # fmt: skip
    assert segment.score == float(np.float32(0.1))
