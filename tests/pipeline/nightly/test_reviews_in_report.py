"""The report counts reviews, and how often they corrected the model, by label."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from drawn_runs import LABELS, label_run, new_table, report, usual_images

from pipeline.nightly.reporting import publish_report
from pipeline.nightly.settings import ReportSettings
from pipeline.reviews.corrections import count_corrections
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.saving import save
from pipeline.storage import Storage
from pipeline.table.store import TableStore

RUN = "20260120T020000-thisone"
SETTINGS = ReportSettings(sheet_images=0, strangest_images=0)


@pytest.fixture
def table(tmp_path) -> TableStore:
    table = new_table(tmp_path)
    label_run(table, RUN, {"u": usual_images("night", 6, seed=1)})
    return table


def review_image(table: TableStore, number: int, *, status: str = "corrected", change=lambda s: s):
    log = ReviewLog.of_table(table.uri, reviews=None, storage=Storage())
    first = model_state(table, f"night/{number:05}.jpg").revision(
        status=status, reviewer="anna", created_at=datetime.now(UTC), tool="test"
    )
    save(log, first.replace(segments=tuple(change(first.segments))))
    return log


def called_sky(segments):
    """The road is called sky, and the tree is gone."""
    for each in segments:
        if each.label == "road":
            yield dataclasses.replace(each, label="sky", label_id=LABELS.index("sky"), score=None)
        elif each.label != "tree":
            yield each


def published_reviews(table: TableStore) -> tuple[dict, str]:
    publish_report(table, RUN, report(RUN), SETTINGS)
    folder = Path(table.file("_runs", RUN))
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()


def test_a_table_without_reviews_has_none_in_its_report(table):
    fields, html = published_reviews(table)
    assert fields["reviews"] is None
    assert "<h2>Reviews</h2>" not in html


def test_the_report_says_how_often_the_model_was_corrected_by_label(table):
    review_image(table, 0, status="accepted")
    review_image(table, 1, change=called_sky)
    review_image(table, 2, change=called_sky)
    review_image(table, 3, status="unusable")
    fields, html = published_reviews(table)
    assert fields["reviews"]["images"] == {"accepted": 1, "corrected": 2, "unusable": 1}
    labels = fields["reviews"]["labels"]
    assert list(labels)[:2] == ["road", "tree"]
    assert labels["road"] == {
        "segments": 3, "kept": 1, "relabelled": 2, "reshaped": 0, "removed": 0, "added": 0,
        "new_labels": {"sky": 2},
    }  # fmt: skip
    assert (labels["tree"]["segments"], labels["tree"]["removed"]) == (3, 2)
    assert (labels["sky"]["segments"], labels["sky"]["kept"]) == (3, 3)
    assert "4 images of the table are reviewed (1 accepted, 2 corrected, 1 unusable)" in html
    assert "sky: 2" in html


def test_what_people_drew_is_an_addition_and_a_stale_review_is_counted_apart(table):
    def drawn(segments):
        yield from segments
        last = segments[-1]
        yield dataclasses.replace(last, segment_id=99, origin="human", origin_segment_id=None)

    log = review_image(table, 0, change=drawn)
    stale = log.read("night/00000.jpg", 1).replace(image_id="night/00001.jpg", base_etag="old")
    log.append(stale)
    found = count_corrections(table, log)
    assert found is not None
    assert found.images == {"corrected": 1, "stale": 1}
    assert found.num_reviewed == 1
    assert sum(each.added for each in found.labels.values()) == 1
    assert sum(each.corrected for each in found.labels.values()) == 0


def test_a_damaged_review_does_not_spoil_the_report(table):
    log = review_image(table, 0)
    Path(log.file("night/00000.jpg", 1)).write_bytes(b"PAR1")
    fields, html = published_reviews(table)
    assert "is no revision" in fields["reviews"]["error"]
    assert "the reviews could not be counted" in html
