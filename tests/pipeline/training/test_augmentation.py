"""Masks move with the image, whatever is done to it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from maskformer import MaskFormerImageProcessor
from pipeline.training.augmentation import GREY, View, augment
from pipeline.training.recipes import Augmentation

HEIGHT, WIDTH = 96, 132
COLOURS = np.array(
    [[10, 200, 120], [250, 40, 60], [60, 90, 240], [200, 190, 30], [90, 160, 200]], np.uint8
)
LABEL_OF = np.array([-1, 0, 1, 1, 2])
RECIPES = {
    "nothing": Augmentation(flip=False),
    "mirrored": Augmentation(),
    "short edges": Augmentation(short_edges=(50, 97, 150), max_edge=200),
    "semantic": Augmentation(
        short_edges=(48, 96, 192), crop=(64, 64), colour_jitter=True, pad_to_crop=True
    ),
    "one label at most half": Augmentation(
        short_edges=(96, 160), crop=(50, 70), single_category_max_area=0.5
    ),
    "scale jitter": Augmentation(scale_jitter=(0.3, 2.0), crop=(80, 90), pad_to_crop=True),
    "panoptic": Augmentation(
        short_edges=(96, 128), max_edge=220, crop_range=(40, 80), crop_short_edges=(80, 110)
    ),
}


def drawn_view() -> View:
    """Ground, sky, a box, a disc and void, each in one colour."""
    ids = np.ones((HEIGHT, WIDTH), np.uint8)
    ids[:40] = 2
    ids[20:70, 10:60] = 3
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    ids[(rows - 60) ** 2 + (columns - 95) ** 2 < 26**2] = 4
    ids[:, -8:] = 0
    return View(pixels=torch.from_numpy(COLOURS[ids]).permute(2, 0, 1), ids=torch.from_numpy(ids))


def augmented(
    settings: Augmentation, *, view: View | None = None, count: int = 12, **others: object
) -> Iterator[View]:
    processor = MaskFormerImageProcessor(do_resize=False)
    for seed in range(count):
        yield augment(
            view or drawn_view(),
            settings=settings,
            **{
                "processor": processor,
                "label_of": LABEL_OF,
                "random": np.random.default_rng(seed),
                **others,
            },
        )


def well_inside(ids: np.ndarray, *, margin: int) -> np.ndarray:
    """Pixels with one id all around them."""
    padded = np.pad(ids, margin, constant_values=255)  # a crop may cut a neighbour off
    around = np.lib.stride_tricks.sliding_window_view(padded, (2 * margin + 1,) * 2)
    return (around == ids[..., None, None]).all((2, 3))


@pytest.mark.parametrize("name", RECIPES)
def test_each_mask_keeps_the_colour_of_its_segment(name: str) -> None:
    settings = RECIPES[name]
    seen = set()
    for view in augmented(settings):
        ids, pixels = view.ids.numpy(), view.pixels.permute(1, 2, 0).numpy()
        inside = well_inside(ids, margin=7)
        for segment in (1, 2, 3, 4):
            found = pixels[inside & (ids == segment)]
            if len(found):
                seen.add(segment)
                assert (found == found[0]).all()
            if len(found) and not settings.colour_jitter:
                np.testing.assert_array_equal(found[0], COLOURS[segment])
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize("name", RECIPES)
def test_chance_decides_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    first = list(augmented(RECIPES[name], count=6))
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    again = list(augmented(RECIPES[name], count=6))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.ids, other.ids)
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state)  # the process's own is not touched
    assert len({view.pixels.numpy().tobytes() for view in first}) > (name != "nothing")


@pytest.mark.parametrize("edge", [29, 30, 31, 32])
def test_an_edge_stays_where_it_is_to_half_a_pixel(edge: int) -> None:
    """The nearest that torchvision takes for masks moves edges by up to a whole one."""
    ids = (np.arange(61)[None] >= edge).astype(np.uint8).repeat(60, 0)
    view = View(pixels=torch.from_numpy(ids[None].repeat(3, 0) * 255), ids=torch.from_numpy(ids))
    for short_edge in (20, 30, 47, 90, 120):
        (made,) = augmented(Augmentation(short_edges=(short_edge,), flip=False), view=view, count=1)
        from_pixels = (made.pixels[0].float() / 255).sum(1).mean()
        from_ids = (made.ids == 1).float().sum(1).mean()
        assert abs(from_pixels - from_ids) <= 0.51


def test_sizes_are_those_of_the_recipes() -> None:
    sizes = {view.size for view in augmented(RECIPES["short edges"], count=30)}
    assert sizes == {(50, 69), (97, 133), (145, 200)}
    assert {view.size for view in augmented(RECIPES["semantic"])} == {(64, 64)}
    assert {view.size for view in augmented(RECIPES["scale jitter"])} == {(80, 90)}
    panoptic = [view.size for view in augmented(RECIPES["panoptic"], count=60)]
    assert all(min(size) in (96, 128) or max(size) == 220 for size in panoptic)
    assert len({size for size in panoptic if size not in ((96, 132), (128, 176))}) > 15
    assert 15 < sum(size in ((96, 132), (128, 176)) for size in panoptic) < 45  # not cropped


def test_without_resizing_the_size_is_that_of_inference() -> None:
    processor = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 80})
    (view,) = augmented(Augmentation(), processor=processor, count=1)
    assert view.size == processor.resized_size((HEIGHT, WIDTH)) == (64, 96)


def test_half_of_the_images_are_mirrored() -> None:
    first = drawn_view()
    mirrored = [
        torch.equal(view.ids, first.ids.flip(1)) and torch.equal(view.pixels, first.pixels.flip(2))
        for view in augmented(Augmentation(), count=200)
    ]
    assert 80 < sum(mirrored) < 120
    unmirrored = augmented(Augmentation(flip=False), count=20)
    assert all(torch.equal(view.ids, first.ids) for view in unmirrored)


def test_crops_come_from_everywhere() -> None:
    rows, columns = np.indices((HEIGHT, WIDTH))
    places = torch.from_numpy((rows * WIDTH + columns).astype(np.int32))
    view = View(pixels=drawn_view().pixels, ids=places)
    settings = Augmentation(short_edges=(HEIGHT,), crop=(94, 130), flip=False)
    corners = {int(made.ids[0, 0]) for made in augmented(settings, view=view, count=100)}
    assert corners == {row * WIDTH + column for row in range(3) for column in range(3)}


def largest_share(view: View) -> float:
    labels = LABEL_OF[view.ids.numpy()]
    counts = np.bincount(labels[labels >= 0])
    return float(counts.max() / counts.sum())


def test_no_label_has_more_than_its_share_of_a_crop() -> None:
    shares = {
        share: [
            largest_share(view)
            for view in augmented(
                Augmentation(short_edges=(HEIGHT,), crop=(32, 32), single_category_max_area=share),
                count=60,
            )
        ]
        for share in (1.0, 0.75)
    }
    assert sum(found > 0.75 for found in shares[1.0]) > 30
    assert max(shares[0.75]) < 0.75


def test_segments_of_one_label_count_together() -> None:
    """The sky and the box have one label: a crop of both alone is one of one label."""
    settings = Augmentation(short_edges=(HEIGHT,), crop=(20, 20), single_category_max_area=0.99)
    for view in augmented(settings, count=30):
        assert {LABEL_OF[i] for i in view.ids.unique()} - {-1} not in ({0}, {1}, {2})


def test_where_no_crop_will_do_the_last_is_taken() -> None:
    view = View(pixels=drawn_view().pixels, ids=torch.ones(HEIGHT, WIDTH, dtype=torch.uint8))
    settings = Augmentation(short_edges=(96,), crop=(32, 32), single_category_max_area=0.5)
    assert {made.size for made in augmented(settings, view=view)} == {(32, 32)}
    nothing = View(pixels=drawn_view().pixels, ids=torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))
    assert {made.size for made in augmented(settings, view=nothing)} == {(32, 32)}


def test_small_images_are_padded_with_grey_and_void() -> None:
    settings = Augmentation(short_edges=(48,), crop=(64, 80), pad_to_crop=True)
    for view in augmented(settings, count=4):
        assert view.size == (64, 80)
        assert (view.pixels[:, 48:] == GREY).all()
        assert (view.pixels[:, :, 66:] == GREY).all()
        assert not view.ids[48:].any()
        assert not view.ids[:, 66:].any()
        assert view.ids[:48, 8:58].all()
    unpadded = Augmentation(short_edges=(48,), crop=(64, 80))
    assert {view.size for view in augmented(unpadded)} == {(48, 66)}


def test_more_than_255_segments_keep_their_ids() -> None:
    ids = torch.arange(60, dtype=torch.int32).view(6, 10).repeat_interleave(10, 0)
    ids = ids.repeat_interleave(10, 1) + 70_000
    view = View(pixels=torch.zeros(3, 60, 100, dtype=torch.uint8), ids=ids)
    (made,) = augmented(Augmentation(short_edges=(30,), flip=False), view=view, count=1)
    assert torch.equal(made.ids.unique(), torch.arange(60, dtype=torch.int32) + 70_000)
