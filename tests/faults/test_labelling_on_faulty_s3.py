"""Two runs label one table over S3 that fails, and that may ignore conditions: each image once.

The runs do all that a job does to the storage, in this process and without a model: plan, load,
stage, commit, clear.
"""

import threading
import time
from collections import Counter

import pyarrow as pa
import pytest
from as_files import encode_image
from PIL import Image
from s3 import S3Server, storage_at
from s3_proxy import s3_proxy
from specs import panoptic_spec

import pipeline.storage.retries
from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.commit import Stager, clear_leftovers, clear_staging, commit_unit
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.rows import ROWS
from pipeline.planning.planner import UnitSettings, plan_corpus, settle_plan
from pipeline.runtime.run_stats import RunStats
from pipeline.storage import Storage, StorageFault
from pipeline.storage.retries import Retries, take_retries
from pipeline.table.store import TableStore, images

_PASSES = 3

SPEC = panoptic_spec("road", "sky")


def put_corpus(storage: Storage, root: str, *, number: int) -> set[str]:
    """Writes so many pictures; returns their names."""
    for index in range(number):
        image = Image.new("RGB", (24, 16), (index % 256, 0, 0))
        storage.write(f"{root}/{index:04}.png", encode_image(image))
    return {f"{index:04}.png" for index in range(number)}


def run_to_last_commit(
    corpus: str, *, table: TableStore, run_id: str, limit: int | None, unit_images: int
) -> RunStats:
    """A run from its plan to its last commit."""
    reading, stats = ReadSettings(), RunStats()

    def plan_now():
        return plan_corpus(
            corpus, table=table, spec=SPEC, reading=reading,
            units=UnitSettings(unit_images=unit_images), limit=limit,
        )  # fmt: skip

    table.create(SPEC)
    plan = settle_plan(plan_now(), plan_again=plan_now, table=table, run_id=run_id)
    processor = MaskFormerImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    loader = UnitLoader(
        storage=table.storage, reading=reading, processor=processor, block_bytes=20_000
    )
    stager = Stager(table=table, run_id=run_id)
    left = {unit.unit_id: unit for unit in plan.units}
    for _ in range(_PASSES):
        for unit in left.values():
            receipts = [
                receipt
                for block in loader(unit.table())
                for receipt in stager(rows_without_segments(block)).to_pylist()
            ]
            assert not [receipt["fault"] for receipt in receipts if receipt["fault"]]
            for receipt in receipts:
                stats.add_retries(Retries(**each) for each in receipt["storage_retries"])
            parts = [receipt["part"] for receipt in receipts if receipt["part"]]
            count = sum(len(receipt["positions"]) for receipt in receipts)
            try:
                commit_unit(unit.unit_id, parts=parts, num_images=count, table=table, spec=SPEC)
                clear_staging(table, unit.unit_id)
                stats.units += 1
            except StorageFault as fault:
                if "is gone" not in str(fault):  # else the other run was first, and has cleared up
                    raise
                stats.faults[unit.unit_id] = str(fault)
        done = table.done_units()
        left = {unit_id: unit for unit_id, unit in left.items() if unit_id not in done}
    assert not left
    stats.add_retries(take_retries())
    return stats


def rows_without_segments(block: pa.Table) -> pa.Table:
    """Returns a block's rows as an actor makes them that finds no segment."""
    found = {"status": "ok", "num_segments": 0, "segments": []}
    return pa.Table.from_pylist(
        [
            {name: value for name, value in row.items() if name in ROWS.names}
            | (found if row["kind"] == "image" else {})
            for row in block.to_pylist()
        ],
        schema=ROWS,
    )


def race_to_label(server: S3Server, *, name: str, number: int, rate: float, ignores: bool) -> str:
    """Two runs at once that see different parts of a corpus and cut it differently; a figure.

    Whichever plan comes into force first, the other has to be made of what it leaves.
    """
    direct = storage_at(server.endpoint_url)
    corpus, table_uri = f"s3://test/{name}/corpus", f"s3://test/{name}/table"
    names = put_corpus(direct, corpus, number=number)
    take_retries()
    stats: list[RunStats] = []
    with s3_proxy(server, rate=rate, seed=number, strips_conditions=ignores) as proxy:
        table = TableStore(table_uri, storage_at(proxy.endpoint_url, read_timeout_seconds=2))

        def run(run_id: str, limit: int | None, unit_images: int) -> None:
            stats.append(
                run_to_last_commit(
                    corpus, table=table, run_id=run_id, limit=limit, unit_images=unit_images
                )
            )

        began = time.monotonic()
        runs = [
            threading.Thread(target=run, args=arguments)
            for arguments in (("one", number // 2, 5), ("two", None, 7))
        ]
        for each in runs:
            each.start()
        for each in runs:
            each.join()
        seconds = time.monotonic() - began
        requests, faults = proxy.requests.total(), proxy.faults.total()
        answered = proxy.faults["slow down"] + proxy.faults["internal error"]
    assert len(stats) == 2
    num_units = len(TableStore(table_uri, direct).done_units())
    table_rows = images(table_uri, storage=direct).to_table().to_pylist()
    count = Counter(row["image_id"] for row in table_rows)
    lost, doubled = names - count.keys(), [image for image, n in count.items() if n > 1]
    assert (lost, doubled) == (set(), [])
    assert {row["status"] for row in table_rows} == {"ok"}
    clear_leftovers(TableStore(table_uri, direct))  # as each run does in the end
    assert not list(direct.files(f"{table_uri}/_staging"))
    done = sum(stats.units for stats in stats)
    wasted = sum(len(stats.faults) for stats in stats)
    told = sum((stats.storage_retries for stats in stats), Counter[str]())
    assert told.total() >= 0.8 * answered
    return (
        f"two runs on one table, {number} images, {rate:.0%} of S3 faults"
        f"{', conditional PUT ignored' if ignores else ''}: lost {len(lost)}, doubled "
        f"{len(doubled)}, {done} commits and {wasted} given up of "
        f"{num_units} units; {faults} faults in {requests:,} requests, {told.total()} of them told "
        f"({dict(told)}), {seconds:.0f} s"
    )


@pytest.mark.parametrize("ignores", [False, True])
def test_two_runs_that_meet_label_each_image_once_over_faults(server, monkeypatch, ignores):
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.02)
    race_to_label(server, name=f"short-{ignores}", number=30, rate=0.05, ignores=ignores)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.2])
def test_two_runs_label_a_corpus_once_at_any_rate_of_faults(server, rate, ignores):
    figure = race_to_label(
        server, name=f"long-{rate}-{ignores}", number=150, rate=rate, ignores=ignores
    )
    print(f"figure: {figure}")
