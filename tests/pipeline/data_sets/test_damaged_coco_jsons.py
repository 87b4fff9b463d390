"""A COCO JSON with any value in any place is read or refused by a line that names the place."""

import json
from pathlib import Path
from typing import Any

import pytest
from coco_jsons import Json, instances_json, open_coco, panoptic_json, with_value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.datasets.checking import check_images

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 40)
    | st.sampled_from(
        [10**400, 1e9, 2**31, 2**63, 10**30, float("nan"), float("inf"), "0", "1", "1.jpg", "\0"]
    )
    | st.floats(-50, 90)
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["id", "size", "counts", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def places_in(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    steps = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [
        place
        for step, inner in steps
        for place in [(*path, step), *places_in(inner, (*path, step))]
    ]


def check_opening_or_refusal(
    folder: Path, said: Json, *, path: tuple[str | int, ...], value: Any, skip: bool
) -> None:
    """A data set whose targets can be made, or one line; never anything else."""
    with_value(said, *path, to=value)
    options = {"skip_unusable": True} if skip and "segmentation" in json.dumps(said) else {}
    try:
        dataset = open_coco(folder, said, **options)
        check_images(dataset)
    except ValueError as error:
        text = str(error)
        assert "\n" not in text
        assert (
            "must " in text or "there is no" in text or "there; see" in text or "segment" in text
        ), text
        return
    for index in range(len(dataset)):
        for segment in dataset.target(index).segments:
            assert segment.is_crowd in (False, True)
            assert segment.area is None or segment.area >= 0


@st.composite
def damages(draw: st.DrawFn) -> tuple[Json, tuple[str | int, ...], Any]:
    said = draw(st.sampled_from([instances_json, panoptic_json]))()
    return said, draw(st.sampled_from(places_in(said))), draw(anything | st.just(...))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages(), st.booleans())
def test_a_json_with_any_value_in_any_place_is_read_or_refused(
    tmp_path: Path, damage: tuple[Json, tuple[str | int, ...], Any], skip: bool
) -> None:
    said, path, value = damage
    check_opening_or_refusal(tmp_path, said, path=path, value=value, skip=skip)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages(), st.booleans())
def test_each_of_ten_thousand_jsons_is_read_or_refused(
    tmp_path: Path, damage: tuple[Json, tuple[str | int, ...], Any], skip: bool
) -> None:
    said, path, value = damage
    check_opening_or_refusal(tmp_path, said, path=path, value=value, skip=skip)
