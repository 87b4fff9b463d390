"""What had to be asked of the storage again, in any process of a run, reaches its report."""

import json

import pyarrow as pa
import pytest
from corpora import picture, put

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.labelling.commit import Stager
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.report import report_run, run_summary
from pipeline.labelling.rows import ROWS, taken_retries
from pipeline.planning.planner import Plan
from pipeline.runtime.run_stats import RunStats
from pipeline.storage import Storage
from pipeline.storage.retries import Retries, RetryPolicy, retried, take_retries
from pipeline.table.store import TableStore


@pytest.fixture(autouse=True)
def none_before() -> None:
    take_retries()


def ask_again(times: int) -> None:
    """Has this process try something so often in vain before it works."""
    left = [OSError("reset")] * times

    def action() -> None:
        if left:
            raise left.pop()

    retried(action, what="read x", retry_policy=RetryPolicy(attempts=99, seconds=99))


class Failing(Storage):
    """Asks once more for whatever is read or written."""

    def read(self, uri: str, **options) -> bytes:
        ask_again(1)
        return super().read(uri, **options)

    def write(self, uri: str, data: bytes) -> None:
        ask_again(1)
        super().write(uri, data)


def storage_counts(told: list[dict]) -> dict[str, int]:
    stats = RunStats()
    stats.add_retries(Retries(**each) for each in told)
    return dict(stats.storage_retries)


def test_the_last_row_of_a_unit_tells_what_its_reader_asked_again(tmp_path, processor):
    corpus = put(tmp_path, {"a.png": picture(0), "b.png": picture(1)})
    sources = list(list_corpus(corpus, storage=Storage(), settings=ReadSettings()).sources)
    loader = UnitLoader(
        storage=Failing(), reading=ReadSettings(), processor=processor, block_bytes=10**9
    )
    unit = pa.Table.from_pylist([{"unit_index": 0, "unit_id": "u", **vars(s)} for s in sources])
    rows = [row for block in loader(unit) for row in block.to_pylist()]
    assert [storage_counts(row["storage_retries"] or []) for row in rows] == [
        {},
        {},
        {"transient": 2},
    ]
    assert take_retries() == []

    gone = pa.Table.from_pylist(
        [
            {"unit_index": 0, "unit_id": "u", **vars(Source(
                uri=f"{corpus}/none.png", name="none.png", kind="file", etag="x", size=1
            ))}
        ]
    )  # fmt: skip
    [fault] = [row for block in loader(gone) for row in block.to_pylist()]
    assert fault["kind"] == "fault"
    assert storage_counts(fault["storage_retries"]) == {"transient": 1}


def test_a_receipt_tells_what_reader_and_stager_asked_again(tmp_path):
    ask_again(3)
    of_reader = taken_retries()
    image = {
        "unit_id": "u", "kind": "image", "position": 0, "image_id": "a", "status": "ok",
        "num_segments": 0, "segments": [], "bytes_read": 1,
    }  # fmt: skip
    end = {"unit_id": "u", "kind": "end", "position": 1, "storage_retries": of_reader}
    stager = Stager(table=TableStore(str(tmp_path), Failing()), run_id="run")
    [receipt] = stager(pa.Table.from_pylist([image, end], schema=ROWS)).to_pylist()
    assert storage_counts(receipt["storage_retries"]) == {"transient": 4}
    assert take_retries() == []


def test_the_report_has_them_by_kind_and_people_read_a_line():
    stats = RunStats(units=0)
    stats.add_retries([Retries(kind="transient", count=3, seconds=1.5)])
    stats.add_retries([Retries(kind="throttled", count=12, seconds=60.0)])
    stats.add_retries([Retries(kind="transient", count=1, seconds=0.5)])
    plan = Plan(units=(), done=1, earlier=1, doubled=())

    def report(stats: RunStats):
        return report_run(
            run_id="run", table="t", corpus="c", plan=plan, stats=stats, seconds=1.0,
            error_budget=0.1, was_stopped=False,
        )  # fmt: skip

    found = json.loads(report(stats).to_json())
    assert found["storage_retries"] == {"throttled": 12, "transient": 4}
    assert found["storage_wait_seconds"] == 62.0
    line = (
        "storage requests that were repeated: 12 throttled, 4 transient; they waited 62 s in total"
    )
    assert line in run_summary(report(stats), report_file="r").splitlines()
    assert "storage requests" not in run_summary(report(RunStats()), report_file="r")
