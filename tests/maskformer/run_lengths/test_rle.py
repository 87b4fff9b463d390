import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from maskformer.cpu.segment_shapes import encode_mask, encode_segments
from maskformer.run_lengths.rle import decode_rle

id_maps = st.tuples(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.int32, np.int64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=13),
        elements=st.integers(0, 5),
    ),
    st.integers(1, 60),
    st.integers(1, 60),
).map(lambda drawn: np.kron(drawn[0], np.ones(drawn[1:], drawn[0].dtype)))


def coco_encoding(mask):
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))


@settings(max_examples=150)
@given(id_maps)
def test_every_segment_is_encoded_byte_for_byte_as_pycocotools_does(id_map):
    shapes = encode_segments(id_map)
    assert shapes.ids.tolist() == [i for i in np.unique(id_map).tolist() if i > 0]
    for i, (segment_id, rle) in enumerate(zip(shapes.ids, shapes.rles, strict=True)):
        expected = coco_encoding(id_map == segment_id)
        assert rle == expected["counts"].decode()
        assert shapes.areas[i] == coco.area(expected)
        assert shapes.boxes_xywh[i].tolist() == coco.toBbox(expected).tolist()


@settings(max_examples=100)
@given(id_maps)
def test_a_decoded_mask_is_the_one_that_was_encoded(id_map):
    mask = id_map > 2
    height, width = mask.shape
    assert encode_mask(mask) == coco_encoding(mask)["counts"].decode()
    decoded = decode_rle(encode_mask(mask), height=height, width=width)
    assert decoded.dtype == bool
    assert (decoded == mask).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (360, 480), (3000, 3000)])
@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_of_any_shape_are_encoded_as_pycocotools_does(shape, value):
    mask = np.full(shape, value)
    assert encode_mask(mask) == coco_encoding(mask)["counts"].decode()
    assert (decode_rle(encode_mask(mask), height=shape[0], width=shape[1]) == mask).all()


def test_ids_of_zero_and_below_are_void_and_have_no_shape():
    shapes = encode_segments(np.array([[0, -1, 7], [0, -3, 7]], np.int32))
    assert shapes.ids.tolist() == [7]
    assert shapes.areas.tolist() == [2]
    assert shapes.boxes_xywh.tolist() == [[2, 0, 1, 2]]
    assert encode_segments(np.zeros((4, 5), np.int32)).rles == ()


@pytest.mark.parametrize("large", [255, 256, 65_535, 65_536, 2**31 - 1])
def test_large_ids_are_kept_whole(large):
    id_map = np.array([[1, large, 1], [0, large, 0]], np.int64)
    shapes = encode_segments(id_map)
    assert shapes.ids.tolist() == [1, large]
    assert shapes.areas.tolist() == [2, 2]


def test_a_map_that_is_not_contiguous_is_encoded_like_its_copy():
    id_map = np.arange(600).reshape(20, 30) % 4
    for view in (id_map.T, id_map[::2, ::-1]):
        assert encode_segments(view).rles == encode_segments(view.copy()).rles


@pytest.mark.parametrize("broken", ["", "~~", "o", "öö", "01", "é", "\ud800"])
def test_text_that_is_no_rle_of_the_size_is_an_error_that_says_so(broken):
    with pytest.raises(ValueError, match="an rle"):
        decode_rle(broken, height=4, width=4)


def test_a_mask_decoded_with_the_wrong_size_is_an_error_that_names_both_counts():
    with pytest.raises(ValueError, match=r"got 12 for 3x5 = 15"):
        decode_rle(encode_mask(np.eye(3, 4, dtype=bool)), height=3, width=5)


def compressed(counts: list[int]) -> str:
    """Compresses whole numbers of any size by COCO's rule."""
    text = ""
    for place, count in enumerate(counts):
        value = count - (counts[place - 2] if place > 2 else 0)
        is_more = True
        while is_more:
            code, value = value & 31, value >> 5
            is_more = value != (-1 if code & 16 else 0)
            text += chr(48 + code + 32 * is_more)
    return text


@pytest.mark.parametrize(
    "counts",
    [
        [2**62, 2**62, 2**62, 2**62, 16],  # adds up to 16 where 64 bits wrap round
        [2**54, 2**54, 16],
        [0, 20, -4],
        [17, -1],
        [2**40, 1, 2**40, 15],
    ],
)
def test_counts_that_are_none_of_the_mask_are_refused_before_memory_is_taken(counts):
    with pytest.raises(ValueError, match="an rle"):
        decode_rle(compressed(counts), height=4, width=4)


@settings(max_examples=100)
@given(st.text("0123456789:;<=>?@ABCXYZ_`abcmno", max_size=12))
def test_a_text_is_the_mask_that_pycocotools_makes_of_it_or_refused(text):
    try:
        mask = decode_rle(text, height=5, width=4)
    except ValueError:
        return
    encoded = {"size": [5, 4], "counts": text.encode()}
    assert mask.sum() == coco.area(encoded)
    assert (mask == coco.decode(encoded)).all()
