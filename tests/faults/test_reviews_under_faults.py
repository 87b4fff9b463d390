"""Reviewers who save at once, on a store that fails: no revision is lost, none is doubled."""

import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from s3 import KEY, SECRET, S3Server
from s3_proxy import KINDS, S3Proxy, s3_proxy

import pipeline.storage.retries
from pipeline.maintenance.compact.reviews import join_reviews
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.revision import ReviewedSegment, Revision
from pipeline.reviews.saving import Conflict, save, submission_of
from pipeline.reviews.shapes import rle_of_mask
from pipeline.storage import Storage, StorageFault

_HEIGHT, _WIDTH, _STRIPES = 4, 32, 8


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.01)


def revision(image_id: str, reviewer: str, *, stripe: int) -> Revision:
    """A car in one stripe of an image in which the model found nothing."""
    mask = np.zeros((_HEIGHT, _WIDTH), np.bool_)
    side = _WIDTH // _STRIPES
    mask[:, stripe * side : (stripe + 1) * side] = True
    segment = ReviewedSegment(
        segment_id=1, label_id=0, label="car", is_thing=True, area=_HEIGHT * side,
        bbox_x=stripe * side, bbox_y=0, bbox_w=side, bbox_h=_HEIGHT, rle=rle_of_mask(mask),
        origin="human",
    )  # fmt: skip
    return Revision(
        image_id=image_id, revision=1, parent_revision=0, base_unit_id="u", base_plan=0,
        base_etag="e", table_fingerprint="t", model_fingerprint="m", height=_HEIGHT, width=_WIDTH,
        status="corrected", reviewer=reviewer, created_at=datetime.now(UTC), tool="test",
        segments=(segment,),
    )  # fmt: skip


def save_until_answered(log: ReviewLog, wanted: Revision) -> Revision | Conflict:
    """Saves as a page does: what failed is sent again."""
    for _ in range(50):
        try:
            return save(log, wanted.replace(created_at=datetime.now(UTC)), base=tuple)
        except StorageFault:
            time.sleep(0.02)
    raise AssertionError("the store failed 50 times")


def save_stripes(
    endpoint_url: str, root: str, *, reviewer: int, images: int, saved: list[str]
) -> None:
    """Saves one stripe of each image; every third reviewer draws in the stripe of the first."""
    storage = Storage(
        endpoint_url=endpoint_url, region="us-east-1", key=KEY, secret=SECRET,
        read_timeout_seconds=1, storage_attempts=4,
    )  # fmt: skip
    log = ReviewLog(root, storage)
    for image in range(images):
        stripe = 0 if reviewer % 3 == 0 else reviewer
        wanted = revision(f"image-{image}", f"reviewer-{reviewer}", stripe=stripe)
        save_until_answered(log, wanted)
        saved.append(submission_of(wanted))
        if reviewer == 1 and image % 2:
            try:
                join_reviews(log, target_bytes=2**20)
            except StorageFault:
                continue


def check_saves(log: ReviewLog, saved: list[str], *, images: int) -> None:
    """All saves are there once, in numbers without a gap, and joined states hold all stripes."""
    kept: Counter[str] = Counter()
    for image in range(images):
        history = log.history(f"image-{image}")
        branches = log.branches(f"image-{image}")
        assert [each.revision for each in history] == list(range(1, len(history) + 1))
        kept.update(each.submission for each in (*history, *branches))
        newest = history[-1]
        assert len(newest.segments) == len(history)
        assert sum(each.area for each in newest.segments) == len(history) * newest.segments[0].area
    assert kept == Counter(saved)
    listed = log.listing().numbers()
    assert sum(map(len, listed.values())) == sum(
        len(log.numbers(f"image-{image}")) for image in range(images)
    )


def run_reviewers(
    proxy: S3Proxy, server: S3Server, root: str, *, reviewers: int, images: int
) -> int:
    saved: list[str] = []
    threads = [
        threading.Thread(
            target=save_stripes, args=(proxy.endpoint_url, root),
            kwargs={"reviewer": number, "images": images, "saved": saved},
        )
        for number in range(reviewers)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(saved) == reviewers * images
    own = Storage(endpoint_url=server.endpoint_url, region="us-east-1", key=KEY, secret=SECRET)
    check_saves(ReviewLog(root, own), saved, images=images)
    return len(saved)


def test_some_faults_lose_and_double_no_revision(server):
    """The short part of what follows."""
    with s3_proxy(server, rate=0.1, seed=5, kinds=KINDS[:-1]) as proxy:
        run_reviewers(proxy, server, "s3://test/short", reviewers=4, images=2)
        assert proxy.faults.total() > 3
        assert proxy.faults["lost answer"]


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_no_revision_is_lost_or_doubled_at_5_and_20_percent_of_faults(server, rate):
    with s3_proxy(server, rate=rate, seed=2) as proxy:
        number = run_reviewers(proxy, server, f"s3://test/rate-{rate}", reviewers=7, images=12)
        faults, requests = proxy.faults.total(), proxy.requests.total()
    assert proxy.faults.keys() == set(KINDS)
    print(
        f"figure: reviews on S3 with faults at {rate:.0%}: {number} saves of 7 reviewers, "
        f"none lost, none doubled, {faults:,} faults in {requests:,} requests"
    )


_PROCESS = """
import sys
sys.path[:0] = {paths!r}
from test_reviews_under_faults import ReviewLog, Storage, revision, save
log = ReviewLog(sys.argv[1], Storage())
sys.stdin.readline()
for image in range({images}):
    wanted = revision(f"image-{{image}}", sys.argv[2], stripe=int(sys.argv[2]))
    print(save(log, wanted, base=tuple).submission)
"""


def test_processes_that_save_at_once_on_a_disk_lose_and_double_nothing(tmp_path):
    images, root = 6, str(tmp_path / "reviews")
    code = _PROCESS.format(
        paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])], images=images
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, root, str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=Path(pipeline.__file__).parents[1],
        )
        for number in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    saved = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(saved) == 4 * images
    check_saves(ReviewLog(root, Storage()), saved, images=images)
