"""A unit is complete when each of its images is in a receipt, however often a task ran."""

from typing import Any

from pipeline.labelling.driving.unit_receipts import UnitReceipts


def drawn_receipt(*positions: int, num_images: int | None = None, **columns: Any) -> dict[str, Any]:
    return {
        "part": f"{positions}", "positions": list(positions), "num_images": num_images,
        "num_segments": 2 * len(positions), "bytes_read": 10 * len(positions), "errors": [],
        "skipped": None, **columns,
    }  # fmt: skip


def error_entry(position: int) -> dict[str, Any]:
    return {"position": position, "image_id": f"{position}.png", "error_class": "NotAnImage"}


def test_a_unit_is_complete_with_all_images_and_its_end_in_any_order():
    unit = UnitReceipts()
    for each in (drawn_receipt(2, num_images=3), drawn_receipt(0)):
        unit.add(each)
        assert not unit.is_complete
    unit.add(drawn_receipt(1))
    assert unit.is_complete
    assert (unit.counts.images, unit.counts.segments, unit.counts.bytes_read) == (3, 6, 30)
    assert len(unit.parts) == 3


def test_images_of_a_task_that_ran_twice_count_once():
    unit = UnitReceipts()
    unit.add(drawn_receipt(0, 1, errors=[error_entry(1)]))
    counts, errors = unit.add(drawn_receipt(0, 1, errors=[error_entry(1)]))
    assert (counts.images, counts.segments, errors) == (0, 0, [])
    counts, errors = unit.add(
        drawn_receipt(1, 2, part="other", errors=[error_entry(1), error_entry(2)])
    )
    assert (counts.images, counts.segments) == (1, 2)
    assert errors == [error_entry(2)]
    assert (unit.counts.images, unit.counts.errors) == (3, {"NotAnImage": 2})
    assert len(unit.parts) == 2
