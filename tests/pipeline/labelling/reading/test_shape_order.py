"""Images of one shape come together, early and within bounds of memory, each of them once."""

from collections import Counter
from collections.abc import Iterator

import pytest
from coco_sizes import coco_sizes
from hypothesis import given
from hypothesis import strategies as st

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import EncodedImage
from pipeline.labelling.reading.shape_order import PlacedImage, Shape, ShapeOrder
from pipeline.storage import StorageFault

SIZES = [(10, 10), (10, 20), (20, 10)]


def placed(position: int, *, num_bytes: int = 100) -> PlacedImage:
    image = EncodedImage(
        image_id=str(position), uri="u", member=None, etag="e", data=b"x" * num_bytes
    )
    return PlacedImage(position=position, image=image)


def order(
    sizes: list[tuple[int, int] | None], *, run_bytes: int, window_bytes: int = 10**9
) -> ShapeOrder:
    def shape_of(image: EncodedImage) -> Shape | None:
        size = sizes[int(image.image_id)]
        if size is None:
            return None
        return Shape(size=size, padded_size=size, num_bytes=3 * size[0] * size[1])

    return ShapeOrder(shape_of=shape_of, run_bytes=run_bytes, window_bytes=window_bytes)


@given(
    st.lists(st.sampled_from([*SIZES, None]), max_size=40),
    st.integers(1, 5000),
    st.integers(1, 3000),
)
def test_each_image_comes_once_and_the_order_is_always_the_same(sizes, run_bytes, window_bytes):
    reorder = order(sizes, run_bytes=run_bytes, window_bytes=window_bytes)
    images = [placed(n) for n in range(len(sizes))]
    positions = [each.position for each in reorder(images)]
    assert sorted(positions) == list(range(len(sizes)))
    assert positions == [each.position for each in reorder(images)]


def test_shapes_are_together_at_the_units_end_and_tell_what_is_to_come():
    sizes = [SIZES[n % 3] for n in range(9)]
    found = list(order(sizes, run_bytes=10**9)(placed(n) for n in range(9)))
    assert [each.position for each in found] == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert [each.bytes_to_come for each in found] == [600, 300, 0, 1200, 600, 0, 1200, 600, 0]


def test_a_shape_goes_on_as_soon_as_it_fills_a_block_and_an_error_at_once():
    sizes = [SIZES[0], SIZES[1], None, SIZES[0], SIZES[0], SIZES[0]]
    taken = []

    def images() -> Iterator[PlacedImage]:
        for number in range(len(sizes)):
            taken.append(number)
            yield placed(number)

    found = order(sizes, run_bytes=900)(images())
    assert next(found).position == 2
    assert taken == [0, 1, 2]
    assert [next(found).position for _ in range(3)] == [0, 3, 4]
    assert taken == [0, 1, 2, 3, 4]
    assert [each.position for each in found] == [5, 1]


@pytest.mark.parametrize("window_bytes", [100, 350, 1000])
def test_what_waits_is_bounded_in_encoded_bytes(window_bytes):
    sizes = [SIZES[n % 3] for n in range(60)]
    read = given_away = most = 0

    def images() -> Iterator[PlacedImage]:
        nonlocal read, most
        for number in range(len(sizes)):
            most = max(most, read - given_away)
            read += 100
            yield placed(number)

    for _ in order(sizes, run_bytes=10**9, window_bytes=window_bytes)(images()):
        given_away += 100
    assert window_bytes - 100 < most <= window_bytes
    assert given_away == read


def test_a_fault_of_storage_passes_through():
    def images() -> Iterator[PlacedImage]:
        yield placed(0)
        raise StorageFault("away")

    with pytest.raises(StorageFault, match="away"):
        list(order([SIZES[0]], run_bytes=10**9)(images()))


def mean_batch(blocks: list[list[tuple[int, int]]]) -> float:
    """Images of a batch, where each block gives one batch for each of its shapes."""
    return sum(map(len, blocks)) / sum(len(Counter(block)) for block in blocks)


@pytest.mark.parametrize("seed", range(3))
def test_the_list_of_sizes_is_like_cocos(seed):
    sizes = coco_sizes(5000, seed=seed)
    ratios = sorted(height / width for height, width in sizes)
    assert 0.5 < ratios[250] < 0.68  # nine in ten: 0.6 to 1.5
    assert 1.3 < ratios[-250] < 1.6
    processor = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})
    shapes = [processor.padded_size(processor.resized_size(size)) for size in sizes]
    today = [shapes[start : start + 64] for start in range(0, len(shapes), 64)]
    assert 3.5 < mean_batch(today) < 4.7
