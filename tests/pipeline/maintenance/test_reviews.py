"""Verification knows what a review must be; compaction joins revisions that stay the same."""

import dataclasses
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from drawn_tables import draw_table
from hooked import Crash, crash_at, interleaved

from pipeline.maintenance.compact.reviews import clear_reviews, join_reviews
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.compact.units import DamagedFile
from pipeline.maintenance.settings import CompactSettings
from pipeline.maintenance.verify.run import as_json, as_text
from pipeline.maintenance.verify.tables import verify_table
from pipeline.reviews.log import ReviewLog, to_parquet
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import Revision
from pipeline.reviews.rules import REVIEW_RULES
from pipeline.reviews.saving import save
from pipeline.storage import Storage, join
from pipeline.table.store import TableStore

STORAGE = Storage()
IMAGES = tuple(f"a/000{number}.jpg" for number in (0, 1, 3))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> TableStore:
    return draw_table(str(tmp_path_factory.mktemp("reviews") / "table"), units=("a",))


@pytest.fixture
def log(table, tmp_path) -> ReviewLog:
    return ReviewLog.of_table(table.uri, reviews=str(tmp_path / "reviews"), storage=STORAGE)


def first_revision(table: TableStore, image_id: str, **fields) -> Revision:
    return model_state(table, image_id).revision(
        status="accepted", reviewer="anna", created_at=datetime(2026, 1, 1, tzinfo=UTC),
        tool="test", **fields,
    )  # fmt: skip


@pytest.fixture
def filled_log(table, log) -> ReviewLog:
    """Three images with two revisions each."""
    for image_id in IMAGES:
        first = save(log, first_revision(table, image_id))
        save(
            log,
            first.replace(
                parent_revision=1, status="corrected", reviewer="ben", segments=first.segments[1:]
            ),
        )
    return log


def verify_reviews(table, log):
    return verify_table(table, sample=1.0, num_threads=2, most_examples=5, reviews=log.uri)


def seen(log: ReviewLog) -> Counter[Revision]:
    fresh = ReviewLog(log.uri, log.storage, table=log.table)
    images = [newest.image_id for newest in fresh.latest_revisions()]
    return Counter(revision for image_id in images for revision in fresh.history(image_id))


# Verification


def test_sound_reviews_are_said_to_be_sound(table, filled_log):
    save(filled_log, first_revision(table, IMAGES[0], comment="other").replace(status="unusable"))
    verdict = verify_reviews(table, filled_log)
    assert verdict.findings.counts == {}
    assert verdict.num_revisions == 6
    assert "6 revisions: sound" in as_text(verdict)
    assert as_json(verdict)["revisions"] == 6
    assert ["conflicted" in notice for notice in verdict.notices] == [True]


def test_a_stale_review_is_no_fault(table, log):
    log.append(first_revision(table, IMAGES[0]).replace(base_etag="older"))
    verdict = verify_reviews(table, log)
    assert verdict.findings.counts == {}
    assert "the photograph has changed" in verdict.notices[0]


def changed_segment(revision: Revision, **fields) -> Revision:
    first, *others = revision.segments
    return revision.replace(segments=(dataclasses.replace(first, **fields), *others))


DAMAGES = {
    "review_parent": lambda revision: revision.replace(parent_revision=7),
    "review_status": lambda revision: revision.replace(status="fine"),
    "review_who": lambda revision: revision.replace(reviewer=" "),
    "review_segment_id": lambda revision: changed_segment(revision, segment_id=0),
    "review_label": lambda revision: changed_segment(revision, label="boat"),
    "review_score": lambda revision: changed_segment(revision, score=1.5),
    "review_rle": lambda revision: changed_segment(revision, rle="1"),
    "review_area": lambda revision: changed_segment(revision, area=1),
    "review_box": lambda revision: changed_segment(revision, bbox_w=1000),
    "review_overlap": lambda revision: revision.replace(
        segments=(
            *revision.segments,
            dataclasses.replace(revision.segments[0], segment_id=99),
        )
    ),
    "review_number": lambda revision: revision.replace(revision=3, parent_revision=1),
}


@pytest.mark.parametrize("rule", DAMAGES)
def test_a_broken_rule_is_found_and_no_other(table, filled_log, rule):
    place = filled_log.file(IMAGES[0], 2)
    wrong = DAMAGES[rule](filled_log.read(IMAGES[0], 2))
    STORAGE.write(place, to_parquet(wrong))
    findings = verify_reviews(table, filled_log).findings
    assert findings.counts == {rule: 1}
    assert findings.examples[rule][0].place == place.removeprefix(f"{filled_log.uri}/")


def test_a_gap_in_the_numbers_is_found(table, filled_log):
    STORAGE.delete([filled_log.file(IMAGES[0], 1)])
    findings = verify_reviews(table, filled_log).findings
    assert findings.counts == {"review_number": 1, "review_parent": 1}
    assert findings.examples["review_number"][0].found == "00000001 is missing, 00000002 is there"


def test_a_revision_of_another_size_is_found(table, log):
    first = first_revision(table, IMAGES[0])
    log.append(first.replace(segments=(), height=first.height + 1))
    assert verify_reviews(table, log).findings.counts == {"review_image": 1}


def test_a_damaged_file_is_named(table, filled_log):
    place = filled_log.file(IMAGES[1], 2)
    STORAGE.write(place, STORAGE.read(place)[:-20])
    findings = verify_reviews(table, filled_log).findings
    assert findings.counts == {"review_file": 1}
    with pytest.raises(DamagedFile, match="00000002"):
        join_reviews(filled_log, target_bytes=2**20)


def test_joined_files_are_compared_with_the_log(table, filled_log):
    join_reviews(filled_log, target_bytes=2**20)
    assert verify_reviews(table, filled_log).findings.counts == {}
    place = filled_log.file(IMAGES[0], 2)
    STORAGE.write(place, to_parquet(filled_log.read(IMAGES[0], 2).replace(comment="other")))
    assert verify_reviews(table, filled_log).findings.counts == {"review_joined": 1}


def test_all_rules_of_reviews_are_tried_here():
    elsewhere = {"review_file", "review_image", "review_joined"}
    assert DAMAGES.keys() | elsewhere == REVIEW_RULES.keys()


# Compaction


def test_readers_see_the_same_revisions_in_fewer_files(table, filled_log):
    before, newest = (
        seen(filled_log),
        {each.image_id: each for each in filled_log.latest_revisions()},
    )
    assert "joined 6 revisions" in (join_reviews(filled_log, target_bytes=2**20) or "")
    assert "no reviews to join" in (join_reviews(filled_log, target_bytes=2**20) or "")
    for path in Path(filled_log.uri, "_compacted").rglob("*"):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    gone = clear_reviews(filled_log, remove_after_days=1)
    assert len(gone) == 6
    assert not list(Path(filled_log.uri, "log").rglob("*.parquet"))
    assert seen(filled_log) == before
    assert {each.image_id: each for each in filled_log.latest_revisions()} == newest
    assert filled_log.history(IMAGES[0]) == sorted(
        (each for each in before if each.image_id == IMAGES[0]), key=lambda each: each.revision
    )
    # Saving goes on behind them, and files that grew are joined again.
    third = save(filled_log, newest[IMAGES[0]].replace(parent_revision=2, reviewer="carl"))
    assert third.revision == 3
    assert "joined" in (join_reviews(filled_log, target_bytes=2**20) or "")
    assert seen(filled_log) == before + Counter([third])
    assert verify_reviews(table, filled_log).findings.counts == {}


def test_the_log_stays_readable_by_patterns(table, filled_log):
    join_reviews(filled_log, target_bytes=2**20)
    query = f"SELECT count(*) FROM '{filled_log.uri}/log/*/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(6,)]


def test_small_targets_give_several_files(filled_log):
    before = seen(filled_log)
    join_reviews(filled_log, target_bytes=60_000)
    assert seen(filled_log) == before
    assert len(filled_log.joined().pointer.files) >= 1


def test_the_command_joins_units_and_reviews(tmp_path, capsys):
    table = draw_table(str(tmp_path / "table"))
    log = ReviewLog.of_table(table.uri, reviews=None, storage=STORAGE)
    for image_id in IMAGES:
        save(log, first_revision(table, image_id))
    before = seen(log)
    compact(table, CompactSettings(table=table.uri))
    assert "joined 3 revisions" in capsys.readouterr().out
    assert seen(log) == before
    assert verify_table(table, sample=1.0, num_threads=1, most_examples=5).findings.counts == {}


def test_a_crash_anywhere_changes_nothing_that_readers_see(table, filled_log):
    before = seen(filled_log)
    for operation in range(1000):
        storage, _ = crash_at(operation)
        try:
            join_reviews(ReviewLog(filled_log.uri, storage, table=table.uri), target_bytes=2**20)
        except Crash:
            assert seen(filled_log) == before
            continue
        break
    assert operation > 8
    assert seen(filled_log) == before
    assert filled_log.joined().places
    assert verify_reviews(table, filled_log).findings.counts == {}


@pytest.mark.parametrize("seed", range(8))
def test_reviewers_and_compactions_at_once_lose_and_double_nothing(
    table, tmp_path, monkeypatch, seed
):
    """Even if compaction removes the files of the log at once, which it does after days."""
    monkeypatch.setattr("pipeline.maintenance.compact.reviews.is_old", lambda *_, **__: True)
    place = str(tmp_path / "reviews")
    first = first_revision(table, IMAGES[0])

    def opened(storage: Storage) -> ReviewLog:
        return ReviewLog(place, storage, table=table.uri)

    def review(name: str, segments):
        def run(storage: Storage):
            log = opened(storage)
            saved = save(
                log, first.replace(reviewer=name, status="corrected", segments=segments),
                base=lambda: first.segments,
            )  # fmt: skip
            return saved, save(log, first.replace(image_id=name, reviewer=name), base=tuple)

        return run

    def compacting(storage: Storage):
        for _ in range(3):
            log = opened(storage)
            join_reviews(log, target_bytes=2**20)
            clear_reviews(log, remove_after_days=1)

    results = interleaved(
        review("anna", first.segments[1:]), review("ben", first.segments[:-1]), compacting,
        compacting, seed=seed,
    )  # fmt: skip
    failures = [each for each in results if isinstance(each, BaseException)]
    assert not [each for each in failures if not isinstance(each, DamagedFile)]
    log = opened(STORAGE)
    history = log.history(IMAGES[0])
    assert [each.reviewer for each in history] in (["anna", "ben"], ["ben", "anna"])
    assert history[1].segments == first.segments[1:-1]
    assert {each.image_id for each in log.latest_revisions()} == {IMAGES[0], "anna", "ben"}
    assert seen(log).total() == 4
    assert verify_reviews(table, log).findings.counts == {}


def test_reviews_and_units_lie_beside_each_other_in_a_bucket(place):
    storage, root = place
    table = draw_table(join(root, "table"), storage=storage, units=("a",))
    log = ReviewLog.of_table(table.uri, reviews=None, storage=storage)
    for image_id in IMAGES:
        save(log, first_revision(table, image_id))
    before = seen(log)
    compact(table, CompactSettings(table=table.uri))
    assert seen(log) == before
    assert sum(before.values()) == 3
