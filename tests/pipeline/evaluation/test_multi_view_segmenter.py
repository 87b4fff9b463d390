"""Several looks at an image give what `maskformer` gives by hand; senseless ones are refused."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawn_labels import scenes
from PIL import Image
from predicted import model_folder_of

from maskformer import (
    MODELS,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    SemanticTestTimeAugmentation,
    SlidingWindows,
)
from pipeline.datasets.dataset import LabelledImages
from pipeline.evaluation.inference_modes import (
    InferenceSettings,
    MultiScale,
    SlidingWindow,
    inference_mode,
)
from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.evaluation.multi_view_segmenter import MultiViewSegmenter
from pipeline.labelling.model import ModelFolder, read_model
from pipeline.labelling.rows import ROWS
from pipeline.labelling.settings import SegmentSettings
from pipeline.table.store import decode_rle

EDGES = (48, 64)
FIRST, SECOND = 0, 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder_of(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> MaskFormerForInstanceSegmentation:
    return MaskFormerForInstanceSegmentation.from_pretrained(folder).eval()


def looked(
    dataset: LabelledImages, folder: Path, settings: SegmentSettings, *, scene: int, **mode: object
) -> dict:
    """The row of a scene, through loader and segmenter_of_views."""
    read: ModelFolder = read_model(str(folder), resize_rule=settings.resize_rule)
    chosen = inference_mode(
        InferenceSettings(**mode),
        model=str(folder),
        processor=read.processor,
        task=settings.task,
    )
    assert chosen is not None
    whole = MaskFormerImageProcessor.from_dict(read.processor.to_dict(), do_resize=False)
    loader = ImageLoader(dataset=dataset, processor=whole, block_bytes=10**9)
    [block] = loader(pa.table({"index": [scene]}, schema=INDICES))
    segmenter_of_views = MultiViewSegmenter(read.files, settings=settings, mode=chosen)
    [row] = segmenter_of_views(block).to_pylist()
    assert (row["status"], row["num_segments"]) == ("ok", len(row["segments"]))
    return row


def scene_photo(scene: int) -> Image.Image:
    return Image.open(io.BytesIO(scenes(2)[scene].jpeg))


def map_of(row: dict, column: str) -> np.ndarray:
    """Returns each pixel's value of a column of its segment; -1 where there is none."""
    values = np.full((row["height"], row["width"]), -1)
    for segment in row["segments"]:
        mask = decode_rle(segment["rle"], height=row["height"], width=row["width"])
        assert (values[mask] == -1).all()
        values[mask] = segment[column]
    return values


@pytest.mark.parametrize("resize_rule", ["transformers", "detectron2"])
def test_augmented_rows_are_those_of_augmentation_by_hand(
    dataset: LabelledImages,
    folder: Path,
    model: MaskFormerForInstanceSegmentation,
    resize_rule: str,
) -> None:
    processor = MaskFormerImageProcessor.from_pretrained(folder, resize_rule=resize_rule)
    settings = SegmentSettings(task="semantic", resize_rule=resize_rule)
    augment = {"augment": True, "augmented_short_edges": EDGES}
    labels = map_of(looked(dataset, folder, settings, scene=FIRST, **augment), "label_id")
    by_hand = SemanticTestTimeAugmentation(model, processor, short_edges=EDGES)
    np.testing.assert_array_equal(labels, by_hand(scene_photo(FIRST)).numpy())
    augment["augmented_flip"] = False
    unmirrored = map_of(looked(dataset, folder, settings, scene=FIRST, **augment), "label_id")
    assert (unmirrored != labels).any()


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_rows_of_windows_are_those_of_windows_by_hand(
    dataset: LabelledImages, folder: Path, model: MaskFormerForInstanceSegmentation, task: str
) -> None:
    thresholds = {"threshold": 0.3, "overlap_mask_area_threshold": 0.1}
    fused = {"label_ids_to_fuse": (0, 1)}
    settings = SegmentSettings(task=task, **({} if task == "semantic" else thresholds | fused))
    row = looked(dataset, folder, settings, scene=SECOND, window=(24, 32), window_overlap=6)
    processor = MaskFormerImageProcessor.from_pretrained(folder)
    windows = SlidingWindows(model, processor, window_size=(24, 32), overlap=6)
    assert len(row["segments"]) > 1
    if task == "semantic":
        expected_labels = windows.semantic(scene_photo(SECOND)).numpy()
        np.testing.assert_array_equal(map_of(row, "label_id"), expected_labels)
        return
    expected = windows.panoptic(scene_photo(SECOND), **thresholds, **fused)
    ids = expected.segmentation.numpy()
    np.testing.assert_array_equal(map_of(row, "segment_id"), np.where(ids == 0, -1, ids))
    told = [(s["segment_id"], s["label_id"], s["score"]) for s in row["segments"]]
    assert told == [(s.id, s.label_id, pytest.approx(s.score, rel=1e-6)) for s in expected.segments]


def test_rows_of_images_that_failed_and_of_faults_pass_through(folder: Path) -> None:
    read = read_model(str(folder), resize_rule="transformers")
    segmenter_of_views = MultiViewSegmenter(
        read.files,
        settings=SegmentSettings(task="semantic"),
        mode=SlidingWindow(size=(24, 32), overlap=6),
    )
    rows = [
        {"kind": "image", "position": 3, "error_class": "EmptyFile", "pixels": None},
        {"kind": "fault", "error_message": "StorageFault: away", "pixels": None},
    ]
    schema = ROWS.append(pa.field("pixels", pa.binary()))
    failed, fault = segmenter_of_views(pa.Table.from_pylist(rows, schema=schema)).to_pylist()
    assert (failed["status"], failed["error_class"], failed["position"]) == (
        "error",
        "EmptyFile",
        3,
    )
    assert (fault["kind"], fault["error_message"]) == ("fault", "StorageFault: away")


def test_a_model_of_the_zoo_has_its_published_sizes() -> None:
    def of(name: str, **settings: object) -> object:
        return inference_mode(
            InferenceSettings(augment=True, **settings),
            model=name,
            processor=MaskFormerImageProcessor.from_dict(MODELS[name].image_processor),
            task="semantic",
        )

    streets = "maskformer-resnet101c-cityscapes"
    assert of(streets) == MultiScale(
        short_edges=(512, 768, 1024, 1280, 1536, 1792), longest_edge=4096, flip=True
    )
    assert of(streets, augmented_short_edges=(700,), augmented_flip=False) == MultiScale(
        short_edges=(700,), longest_edge=4096, flip=False
    )
    # Where none were published, the model's own edge decides.
    assert of("maskformer-resnet50-mapillary-vistas") == MultiScale(
        short_edges=None, longest_edge=None, flip=True
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": True, "window": (64, 64)}, "augment and window exclude each other"),
        ({"augmented_short_edges": (64,)}, "augmented_short_edges has no effect without --augment"),
        ({"augmented_flip": False}, "augmented_flip has no effect without --augment"),
        ({"window_overlap": 3}, "window_overlap has no effect without --window"),
        ({"augment": True, "augmented_short_edges": ()}, "sizes of at least 1"),
        ({"augment": True, "augmented_short_edges": (64, 0)}, "sizes of at least 1"),
        ({"window": (1, 64)}, "sides of at least 2"),
        ({"window": (64, 32), "window_overlap": 17}, "1 to half of the window's shorter side"),
        ({"window": (64, 32), "window_overlap": 0}, "1 to half of the window's shorter side"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "task", "processor", "message"),
    [
        ({"augment": True}, "panoptic", {}, "augment is for --task semantic"),
        ({"window": (64, 64)}, "instance", {}, "window is for --task semantic or panoptic"),
        ({"augment": True}, "semantic", {"size": (64, 64)}, "resizes to a shortest edge"),
        ({"augment": True}, "semantic", {"do_resize": False}, "resizes to a shortest edge"),
    ],
)
def test_tasks_and_models_that_cannot_be_looked_at_so_are_refused(
    settings: dict, task: str, processor: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inference_mode(
            InferenceSettings(**settings),
            model="a folder",
            processor=MaskFormerImageProcessor(**processor),
            task=task,
        )


def test_an_image_is_seen_once_and_whole_where_nothing_is_said() -> None:
    processor = MaskFormerImageProcessor()
    assert (
        inference_mode(InferenceSettings(), model="m", processor=processor, task="instance") is None
    )
    windows = inference_mode(
        InferenceSettings(window=(64, 32)), model="m", processor=processor, task="panoptic"
    )
    assert windows == SlidingWindow(size=(64, 32), overlap=4)
