"""The zoo's entries against the published facts, and each of them as a model."""

import json
import subprocess
import sys

import pytest
import torch

from maskformer.configuration import MaskFormerConfig
from maskformer.image_processor import MaskFormerImageProcessor
from maskformer.model import MaskFormerForInstanceSegmentation
from maskformer.zoo import MODELS, Entry, label_maps_count_from_one
from maskformer.zoo.table import zoo_table

BACKBONES = {
    "ade20k": "R50 R101 R101c Swin-T Swin-S Swin-B Swin-L",
    "coco-stuff-10k": "R50 R101 R101c",
    "ade20k-full": "R50 R101 R101c",
    "cityscapes": "R101 R101c",
    "mapillary-vistas": "R50",
    "coco-panoptic": "R50 R101 Swin-T Swin-S Swin-B Swin-L",
    "ade20k-panoptic": "R50 R101",
}
NUM_LABELS = {
    "ade20k": 150,
    "coco-stuff-10k": 171,
    "ade20k-full": 847,
    "cityscapes": 19,
    "mapillary-vistas": 65,
    "coco-panoptic": 133,
    "ade20k-panoptic": 150,
}
NUM_THINGS = {
    "ade20k": 100,
    "coco-stuff-10k": 80,
    "ade20k-full": 0,
    "cityscapes": 8,
    "mapillary-vistas": 37,
    "coco-panoptic": 80,
    "ade20k-panoptic": 100,
}


def dataset_of(entry: Entry) -> str:
    found = [name for name in NUM_LABELS if entry.name.endswith(f"-{name}")]
    return max(found, key=len)


each_entry = pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)


def test_every_published_model_is_there_once():
    names = [(dataset_of(entry), entry.backbone.title) for entry in MODELS.values()]

    assert sorted(names) == sorted(
        (dataset, backbone) for dataset, titles in BACKBONES.items() for backbone in titles.split()
    )
    assert len({entry.weights.url for entry in MODELS.values()}) == len(MODELS) == 24
    assert all(name == entry.name for name, entry in MODELS.items())


@each_entry
def test_every_model_has_its_labels_things_and_stuff(entry):
    dataset = dataset_of(entry)
    config = MaskFormerConfig.from_dict(entry.config)

    assert config.num_labels == len(set(entry.dataset.labels)) == NUM_LABELS[dataset]
    assert all(label and label == label.strip() for label in entry.dataset.labels)
    assert len(entry.things) == NUM_THINGS[dataset]
    assert not entry.things & entry.stuff
    assert entry.things | entry.stuff == set(config.id2label)


# Models of one architecture differ by the rows of the class head, which the formula counts: of each
# the one with the most labels is built.
ARCHITECTURES = {
    (entry.backbone.title, entry.has_pixel_encoder): entry
    for entry in sorted(MODELS.values(), key=lambda entry: len(entry.dataset.labels))
}


@pytest.mark.parametrize("entry", ARCHITECTURES.values(), ids=lambda entry: entry.name)
def test_every_architecture_can_be_built_and_has_the_size_it_says(entry):
    with torch.device("meta"):
        model = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(entry.config))
    assert sum(p.numel() for p in model.parameters()) == entry.num_parameters


# As the paper and its code count them.
SIZES = {
    "maskformer-swin-tiny-ade20k": 41_757_009,
    "maskformer-swin-large-ade20k": 211_575_627,
    "maskformer-resnet101c-ade20k": 60_318_039,
    "maskformer-resnet50-coco-panoptic": 45_012_038,
    "maskformer-resnet101-coco-panoptic": 63_951_942,
    "maskformer-swin-base-coco-panoptic": 101_825_022,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes_are_the_published_ones(name, size):
    assert MODELS[name].num_parameters == size


PLACES = {
    "ade20k": {0: "wall", 12: "person", 20: "car", 149: "flag"},
    "ade20k-full": {0: "wall", 100: "buffet, counter, sideboard", 500: "cat", 832: "dumbbell"},
    "cityscapes": {0: "road", 11: "person", 18: "bicycle"},
    "coco-panoptic": {0: "person", 79: "toothbrush", 80: "banner", 132: "rug-merged"},
    "coco-stuff-10k": {0: "person", 79: "toothbrush", 80: "banner", 170: "wood"},
    "mapillary-vistas": {0: "Bird", 19: "Person", 55: "Car", 64: "Ego Vehicle"},
}


@pytest.mark.parametrize("dataset", PLACES)
def test_labels_are_in_the_order_of_the_classes(dataset):
    entry = next(entry for entry in MODELS.values() if dataset_of(entry) == dataset)
    assert {place: entry.id2label[place] for place in PLACES[dataset]} == PLACES[dataset]


def test_the_labels_of_coco_are_those_of_its_own_file(shared):
    path = shared / "data" / "coco_panoptic_sample" / "panoptic_coco_categories.json"
    categories = json.loads(path.read_text())
    entry = MODELS["maskformer-swin-tiny-coco-panoptic"]

    assert list(entry.dataset.labels) == [category["name"] for category in categories]
    assert entry.things == {i for i, category in enumerate(categories) if category["isthing"]}


@each_entry
def test_thresholds_and_results_fit_the_task(entry):
    panoptic = entry.task == "panoptic"
    published = entry.published

    assert (entry.thresholds is not None) == panoptic
    assert (published.pq is not None) == panoptic
    assert (published.miou is not None) == (not panoptic)
    assert published.miou_augmented is None or published.miou_augmented > published.miou
    assert entry.licence == "CC BY-NC 4.0"
    assert entry.weights.file_name == f"model_final_{entry.weights.md5_start}.pkl"


@each_entry
def test_every_image_processor_makes_the_published_size(entry):
    processor = MaskFormerImageProcessor.from_dict(entry.image_processor)
    short = entry.testing.short_edge

    assert min(processor.resized_size((4 * short, 4 * short))) == short
    assert processor.ignore_index == entry.dataset.ignore_index
    assert processor.num_labels == len(entry.dataset.labels)


def test_sizes_of_images_are_those_of_detectron2():
    coco = MaskFormerImageProcessor.from_pretrained("maskformer-swin-large-coco-panoptic")
    ade = MaskFormerImageProcessor.from_pretrained("maskformer-swin-tiny-ade20k")

    assert coco.padded_size(coco.resized_size((480, 640))) == (800, 1067)
    assert ade.padded_size(ade.resized_size((640, 480))) == (704, 512)


def test_recipes_are_the_published_ones():
    large = MODELS["maskformer-swin-large-coco-panoptic"].recipe
    resnet = MODELS["maskformer-resnet50-ade20k"].recipe
    stuff = MODELS["maskformer-resnet50-coco-stuff-10k"].recipe

    assert (large.num_steps, large.steps, large.batch_size) == (554_400, (369_600,), 64)
    assert (large.learning_rate, large.weight_decay, large.backbone_rate) == (6e-5, 0.01, 1.0)
    assert (large.max_edge, large.warmup_steps, large.short_edges[0]) == (1000, 1500, 480)
    assert (resnet.learning_rate, resnet.weight_decay, resnet.backbone_rate) == (1e-4, 1e-4, 0.1)
    assert (resnet.short_edges[0], resnet.short_edges[-1], resnet.max_edge) == (256, 1024, 2048)
    assert (stuff.short_edges[-1], stuff.batch_size, stuff.crop) == (960, 32, (640, 640))


def test_config_and_image_processor_come_by_name_without_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "maskformer-swin-large-coco-panoptic"

    config = MaskFormerConfig.from_pretrained(name)
    processor = MaskFormerImageProcessor.from_pretrained(name, size_divisor=64)

    assert config == MaskFormerConfig.from_dict(MODELS[name].config)
    assert MaskFormerConfig.from_pretrained(name, num_labels=7).num_labels == 7
    assert MaskFormerConfig.from_dict(MODELS[name].config, num_labels=7).num_labels == 7
    assert processor.size == {"shortest_edge": 800, "longest_edge": 1333}
    assert processor.size_divisor == 64
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_line_for_each_model():
    heads, rule, *lines = zoo_table(MODELS.values()).splitlines()

    assert [line.split()[0] for line in lines[: len(MODELS)]] == list(MODELS)
    assert "52.7 PQ" in next(line for line in lines if "swin-large-coco" in line)
    assert "not for commercial use" in lines[-1]
    assert len(rule) >= max(map(len, [heads, *lines[: len(MODELS)]]))


def test_the_zoo_starts_without_torch():
    program = (
        "import sys; from maskformer.zoo import MODELS; from maskformer.zoo.table import zoo_table;"
        "zoo_table(MODELS.values()); [(m.config, m.image_processor) for m in MODELS.values()];"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_configurations_carry_things_where_the_data_set_names_some():
    config = MaskFormerConfig.from_pretrained
    assert config("maskformer-swin-tiny-coco-panoptic").things == list(range(80))
    assert config("maskformer-resnet50-ade20k-full").things is None
    assert config("maskformer-swin-tiny-coco-panoptic", num_labels=3).things is None


def test_of_published_labels_ade20k_s_are_counted_from_one_in_its_maps():
    ade20k, coco = (MODELS[f"maskformer-swin-tiny-{name}"] for name in ("ade20k", "coco-panoptic"))
    assert label_maps_count_from_one(ade20k.dataset.labels)
    assert not label_maps_count_from_one(ade20k.dataset.labels[1:])
    assert not label_maps_count_from_one(coco.dataset.labels)
