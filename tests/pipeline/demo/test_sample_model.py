"""The sample model that the project ships, judged on scenes that it has not seen."""

import pytest
import torch
from PIL import Image

from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    PanopticQuality,
)
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.scene import LABELS, THINGS, draw_scene

SCENES = [draw_scene(index, seed=7) for index in range(12)]


@pytest.fixture(scope="module")
def sample_model():
    return MaskFormerForInstanceSegmentation.from_pretrained(SAMPLE_MODEL).eval()


@pytest.fixture(scope="module")
def sample_processor():
    return MaskFormerImageProcessor.from_pretrained(SAMPLE_MODEL)


def test_it_fits_into_the_package():
    assert sum(path.stat().st_size for path in SAMPLE_MODEL.iterdir()) <= 12e6


def test_it_knows_what_scenes_show(sample_model):
    assert tuple(sample_model.config.id2label.values()) == LABELS
    assert {LABELS[thing] for thing in sample_model.config.things} == set(THINGS)


def test_it_finds_the_segments_of_scenes_that_it_has_not_seen(sample_model, sample_processor):
    things = {label for label, name in enumerate(LABELS) if name in THINGS}
    quality = PanopticQuality(len(LABELS), things)
    for scene in SCENES:
        with torch.inference_mode():
            outputs = sample_model(
                **sample_processor(images=Image.fromarray(scene.pixels), return_tensors="pt")
            )
        [found] = sample_processor.post_process_panoptic_segmentation(
            outputs, target_sizes=[scene.ids.shape], label_ids_to_fuse=sample_model.config.stuff
        )
        quality.update(found, _truth(scene))
    assert quality.compute()["pq"] > 0.6


def _truth(scene):
    return {
        "segmentation": torch.from_numpy(scene.ids.astype("int32")),
        "segments_info": [
            {"id": number, "label_id": label} for number, label in enumerate(scene.label_ids, 1)
        ],
    }
