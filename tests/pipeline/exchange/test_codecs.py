"""CVAT's run lengths and Label Studio's brush, both ways, against both SDKs."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskformer import encode_mask, encode_segments
from pipeline.exchange.box_masks import box_mask, row_runs
from pipeline.exchange.cvat_runs import decode_cvat_runs, encode_cvat_runs
from pipeline.exchange.label_studio_brush import decode_brush, encode_brush

ROOT = Path(__file__).parents[3]
READERS = ROOT / ".venv" / "readers" / "bin" / "python"

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def boxed(mask):
    """The mask in its box, as the table's rows give it, and the box."""
    [rle], [box] = (
        encode_segments(mask.view(np.uint8)).rles,
        encode_segments(mask.view(np.uint8)).boxes_xywh.tolist(),
    )
    height, width = mask.shape
    return box_mask(rle, height=height, width=width, box_xywh=tuple(box)), box


@given(masks)
@settings(max_examples=200, deadline=None)
def test_both_codecs_give_back_any_mask(mask):
    height, width = mask.shape
    if not mask.any():
        return
    inside, (left, top, box_width, box_height) = boxed(mask)
    assert (inside == mask[top : top + box_height, left : left + box_width]).all()

    text = ", ".join(map(str, encode_cvat_runs(inside)))
    assert (decode_cvat_runs(text, box_width=box_width, box_height=box_height) == inside).all()

    runs = row_runs(inside, left=left, top=top, width=width)
    painted = np.zeros(height * width, bool)
    for start, end in runs:
        painted[start:end] = True
    assert (painted.reshape(mask.shape) == mask).all()
    brush = encode_brush(runs, height=height, width=width)
    assert (decode_brush(brush, height=height, width=width) == mask).all()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_brush_with_other_sizes_and_values_one_by_one_is_decoded(data):
    """Label Studio's page writes other lengths than its SDK, and half-transparent values."""
    values = data.draw(st.lists(st.sampled_from([0, 127, 128, 255]), min_size=1, max_size=12))
    sizes = data.draw(st.lists(st.integers(1, 16), min_size=4, max_size=4))
    rgba = np.repeat(values, 4)
    bits, at = f"{len(rgba):032b}00111" + "".join(f"{size - 1:04b}" for size in sizes), 0
    while at < len(rgba):
        kind = data.draw(st.integers(0, 3))
        count = data.draw(st.integers(1, min(1 << sizes[kind], len(rgba) - at)))
        is_run = len({*rgba[at : at + count].tolist()}) == 1 and data.draw(st.booleans())
        bits += f"{int(is_run)}{kind:02b}{count - 1:0{sizes[kind]}b}"
        bits += "".join(
            f"{v:08b}" for v in (rgba[at : at + 1] if is_run else rgba[at : at + count])
        )
        at += count
    bits += "0" * (-len(bits) % 8)
    data_bytes = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    expected = np.array(values) >= 128
    assert (decode_brush(data_bytes, height=1, width=len(values))[0] == expected).all()


def test_runs_longer_than_a_record_are_split():
    mask = np.zeros((300, 400), bool)
    mask[10:290] = True
    inside, (left, top, _, _) = boxed(mask)
    brush = encode_brush(row_runs(inside, left=left, top=top, width=400), height=300, width=400)
    assert (decode_brush(brush, height=300, width=400) == mask).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1, 2], "header"),
        ([300] * 20, "whole numbers from 0 to 255"),
        (["a"] * 20, "list of bytes"),
        (encode_brush(np.array([[1, 2]]), height=3, width=3), "4 values for each of 12 pixels"),
        (encode_brush(np.array([[1, 2], [5, 6]]), height=3, width=4)[:9], "cut off"),
    ],
)
def test_a_brush_that_is_none_says_why(data, says):
    with pytest.raises(ValueError, match=says):
        decode_brush(data, height=3, width=4)


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "whole numbers"), ("1, x", "whole numbers"), ("1, 2", "fill its box of 3x2"),
     ("-1, 7", "in 0 to 6"), ("9" * 30, "whole numbers|in 0 to 6"), ("3, 4", "fill its box")],
)  # fmt: skip
def test_runs_of_cvat_that_do_not_fill_their_box_say_so(text, says):
    with pytest.raises(ValueError, match=says):
        decode_cvat_runs(text, box_width=3, box_height=2)


@pytest.mark.skipif(not READERS.exists(), reason="make installs .venv/readers")
def test_both_equal_the_sdks_of_cvat_and_label_studio(tmp_path):
    random = np.random.default_rng(0)
    drawn = {}
    for number in range(60):
        height, width = random.integers(1, 40, 2)
        mask = random.random((height, width)) < random.choice([0.02, 0.3, 0.9, 1])
        mask[random.integers(height), random.integers(width)] = True
        drawn[f"m{number}"] = mask
    large = np.zeros((200, 300), bool)
    large[20:190, 5:] = True
    whole = np.ones((170, 260), bool)
    drawn |= {"large": large, "whole": whole}
    np.savez(tmp_path / "masks.npz", **drawn)
    command = [READERS, ROOT / "tests/readers/brush_and_cvat.py", tmp_path / "masks.npz"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for name, mask in drawn.items():
        inside, (left, top, box_width, box_height) = boxed(mask)
        box = [left, top, left + box_width - 1, top + box_height - 1]
        assert encode_cvat_runs(inside) + box == found[name]["cvat"], name
        height, width = mask.shape
        runs = row_runs(inside, left=left, top=top, width=width)
        brush = encode_brush(runs, height=height, width=width)
        assert brush == found[name]["brush"], name
        assert found[name]["is_decoded"]
        assert encode_mask(decode_brush(brush, height=height, width=width)) == encode_mask(mask)
