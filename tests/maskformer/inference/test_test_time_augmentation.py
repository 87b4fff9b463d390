import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import PatchModel, scenery
from tiny import make_tiny
from torch.nn.functional import interpolate

from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.inference.augmentation import SemanticTestTimeAugmentation
from maskformer.postprocessing.semantic import semantic_scores

SIZE = (64, 96)


MODEL = PatchModel()


def processor_for(edge=64, **settings):
    return MaskFormerImageProcessor(
        size={"shortest_edge": edge, "longest_edge": 4 * edge}, **settings
    )


@pytest.mark.parametrize("resize_rule", ["transformers", "detectron2"])
def test_one_size_without_its_mirror_image_is_no_augmentation(resize_rule):
    processor = processor_for(resize_rule=resize_rule)
    image = scenery((70, 101))
    pixels = processor.resize(image)
    with torch.no_grad():
        outputs = MODEL(processor.normalize(torch.from_numpy(pixels)[None]))
    sizes = {"image_sizes": [pixels.shape[:2]]} if resize_rule == "detectron2" else {}
    (expected,) = processor.post_process_semantic_segmentation(
        outputs, target_sizes=[(70, 101)], **sizes
    )
    assert len(expected.unique()) > 1
    augmented = SemanticTestTimeAugmentation(
        MODEL, processor, short_edges=[64], longest_edge=256, flip=False
    )
    assert torch.equal(augmented(image), expected)


def test_a_mirrored_image_gives_the_mirrored_result():
    augmented = SemanticTestTimeAugmentation(MODEL, processor_for(), short_edges=[64])
    image = scenery(SIZE)
    labels = augmented(image)
    mirrored = augmented(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert len(labels.unique()) > 1
    assert torch.equal(mirrored, labels.flip(-1))
    alone = SemanticTestTimeAugmentation(MODEL, processor_for(), short_edges=[64], flip=False)
    flipped = alone(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not torch.equal(flipped, alone(image).flip(-1))


@pytest.mark.parametrize("resize_rule", ["transformers", "detectron2"])
def test_the_label_with_the_highest_mean_over_all_versions_wins(resize_rule):
    """Beside the sum made by hand, with torch's own resizing, of whole scores."""
    image, edges = scenery((70, 101)), (48, 64, 100)
    total = torch.zeros(4, 70, 101)
    for edge in edges:
        processor = processor_for(edge, resize_rule=resize_rule)
        pixels = processor.resize(image)
        for is_mirrored in (False, True):
            array = np.ascontiguousarray(pixels[:, ::-1] if is_mirrored else pixels)
            values = processor.normalize(torch.from_numpy(array)[None])
            with torch.no_grad():
                outputs = MODEL(values)
            masks = outputs.masks_queries_logits
            if resize_rule == "detectron2":
                masks = interpolate(masks, values.shape[2:], mode="bilinear")
                masks = masks[:, :, : pixels.shape[0], : pixels.shape[1]]
            scores = semantic_scores(outputs.class_queries_logits[0], masks[0])
            scores = interpolate(scores[None], (70, 101), mode="bilinear")[0]
            total += scores.flip(-1) if is_mirrored else scores
    augmented = SemanticTestTimeAugmentation(
        MODEL, processor_for(resize_rule=resize_rule), short_edges=edges
    )
    labels = augmented(image)
    assert len(labels.unique()) > 1
    assert (labels == total.argmax(0)).float().mean() > 0.999
    (single,) = (
        SemanticTestTimeAugmentation(
            MODEL, processor_for(resize_rule=resize_rule), short_edges=[64], flip=False
        )(image),
    )
    assert (labels == single).float().mean() < 0.99


def test_the_budget_of_bytes_changes_nothing():
    maps = [
        SemanticTestTimeAugmentation(
            MODEL, processor_for(), short_edges=[48, 80], byte_budget=budget
        )(scenery(SIZE))
        for budget in (1, 30_000, 1 << 30)
    ]
    for other in maps[1:]:
        # Sums of products of another shape may differ in their last bits.
        assert (other == maps[0]).float().mean() > 0.999


def test_the_sizes_are_the_published_ones():
    augmented = SemanticTestTimeAugmentation(MODEL, processor_for(512))
    sizes = [processor.size for processor in augmented.image_processors]
    assert [size["shortest_edge"] for size in sizes] == [256, 384, 512, 640, 768, 896]
    assert {size["longest_edge"] for size in sizes} == {7 * 512}


def test_a_processor_that_has_no_shortest_edge_is_refused():
    for settings in ({"do_resize": False}, {"size": (64, 64)}):
        with pytest.raises(ValueError, match="resizing to a shortest edge"):
            SemanticTestTimeAugmentation(MODEL, MaskFormerImageProcessor(**settings))
    with pytest.raises(ValueError, match="at least one size"):
        SemanticTestTimeAugmentation(MODEL, processor_for(), short_edges=[])


def test_it_takes_the_models_of_this_package():
    augmented = SemanticTestTimeAugmentation(make_tiny(), processor_for(), short_edges=[32, 48])
    assert augmented(scenery(SIZE)).shape == SIZE
