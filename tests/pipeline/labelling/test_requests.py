"""A unit takes few requests to storage, whatever its number of images."""

from collections import Counter

import pytest
from hooked import HookedStorage
from simulated_fleet import SPEC, DrawnLoader, WaitingSegmenter, drawn_units

from pipeline.labelling.commit import Stager, clear_staging, commit_unit
from pipeline.table.store import TableStore, images


@pytest.mark.parametrize(("block_images", "parts"), [(256, 4), (64, 16)])
def test_a_unit_is_staged_in_a_part_for_each_block_and_written_once(tmp_path, block_images, parts):
    asked: Counter[tuple[str, str]] = Counter()
    table = TableStore(
        str(tmp_path / "table"), HookedStorage(lambda what, uri: asked.update([(what, place(uri))]))
    )
    table.create(SPEC)
    (unit,) = drawn_units(1, unit_images=1000)
    segmenter = WaitingSegmenter(images_per_second=0)
    stager = Stager(table=table, run_id="run")
    asked.clear()

    assert not table.is_done(unit.unit_id)  # as the reader asks
    blocks = DrawnLoader(block_images=block_images)(unit.table())
    receipts = [row for block in blocks for row in stager(segmenter(block)).to_pylist()]
    commit_unit(
        unit.unit_id,
        parts=[receipt["part"] for receipt in receipts],
        num_images=1000,
        table=table,
        spec=SPEC,
    )
    clear_staging(table, unit.unit_id)

    assert {each: count for each, count in asked.items() if each[1] == "_staging"} == {
        ("write", "_staging"): parts,
        ("read", "_staging"): parts,
        ("list", "_staging"): 1,
        ("delete", "_staging"): parts,
    }
    assert (asked["write", "segments"], asked["write", "images"]) == (1, 1)
    # A million images in units of 1,000 and blocks of 256: some 20,000 requests.
    assert asked.total() <= 8 + 3 * parts
    assert images(table.uri).count_rows() == 1000


def place(uri: str) -> str:
    return next(name for name in ("_staging", "segments", "images", "table") if f"/{name}" in uri)
