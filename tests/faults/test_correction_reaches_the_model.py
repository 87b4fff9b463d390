"""A model that calls every boat car learns from reviews of its table to call boats boats.

The table's rows are the truth of drawn scenes but for that one rule. The boats of some images are
corrected through the review page, and the model is trained on what was saved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from specs import panoptic_spec

import pipeline.demo
from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    encode_segments,
)
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.demo.commands import served_page
from pipeline.demo.page_session import PageSession
from pipeline.demo.scenes.scene import LABELS, THINGS, Scene, draw_scene
from pipeline.demo.scenes.shards import encode_scene
from pipeline.storage import Storage
from pipeline.table.store import IMAGES, SEGMENTS, TableStore
from pipeline.training.loading import load_batches
from pipeline.training.loop import Trainer
from pipeline.training.recipes import Augmentation
from pipeline.training.samples import TrainingData
from pipeline.training.settings import OptimisationSettings, ValidationSettings
from pipeline.training.validation import validation_of

SAMPLE_MODEL = Path(pipeline.demo.__file__).parent / "sample_model"
BOAT, CAR = LABELS.index("boat"), LABELS.index("car")
SIZE = (128, 160)
_LEAST_BOAT_PIXELS = 150


def scenes_with_boats(count: int, *, seed: int) -> list[Scene]:
    found: list[Scene] = []
    for index in range(100 * count):
        scene = draw_scene(index, seed=seed, size=SIZE)
        boats = [n for n, label in enumerate(scene.label_ids, start=1) if label == BOAT]
        if np.isin(scene.ids, boats).sum() >= _LEAST_BOAT_PIXELS:
            found.append(scene)
            if len(found) == count:
                break
    return found


def write_scenes(folder: Path, drawn: Sequence[Scene], *, boats_are: int = BOAT) -> TableStore:
    """A table over photographs of the scenes, whose boats have a label of choice."""
    table = TableStore(str(folder / "table"), Storage())
    stuff = tuple(n for n, label in enumerate(LABELS) if label not in THINGS)
    table.create(panoptic_spec(*LABELS, label_ids_to_fuse=stuff))
    (folder / "photos").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    for position, scene in enumerate(drawn):
        image_id = f"{position:04}.jpg"
        photo = folder / "photos" / image_id
        photo.write_bytes(encode_scene(scene, quality=90)["jpg"])
        height, width = scene.ids.shape
        shapes = encode_segments(scene.ids)
        size = {"image_id": image_id, "height": height, "width": width}
        for number, (true_id, area, box, rle) in enumerate(
            zip(shapes.ids, shapes.areas, shapes.boxes_xywh, shapes.rles, strict=True), start=1
        ):
            label_id = scene.label_ids[int(true_id) - 1]
            label_id = boats_are if label_id == BOAT else label_id
            names = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
            segments.append(
                {
                    **size, "segment_id": number, "label_id": label_id, "label": LABELS[label_id],
                    "is_thing": label_id not in stuff, "score": 0.9, "area": int(area),
                    "rle": rle, **dict(zip(names, map(int, box), strict=True)),
                }
            )  # fmt: skip
        file = table.storage.file(str(photo))
        assert file is not None
        images.append(
            {
                **size, "uri": str(photo), "etag": file.etag, "unit_id": "u", "position": position,
                "status": "ok", "num_segments": len(shapes.rles),
            }
        )  # fmt: skip
    for part, schema, rows in (("segments", SEGMENTS, segments), ("images", IMAGES, images)):
        Path(table.file(part)).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), table.file(part, "u.parquet"))
    return table


def correct(table: TableStore, drawn: Sequence[Scene], *, images: int) -> None:
    """Calls the boats of the first images boats, through the review page."""
    words = ("review", table.uri, "--reviewer", "anna", "--port", "0", "--no_open")
    with served_page(*words) as address:
        page = PageSession(address)
        for position, scene in enumerate(drawn[:images]):
            image_id = f"{position:04}.jpg"
            true_ids = encode_segments(scene.ids).ids
            boats = [
                number for number, true_id in enumerate(true_ids, start=1)
                if scene.label_ids[int(true_id) - 1] == BOAT
            ]  # fmt: skip
            state = page.state(image_id)
            segments = [
                {**each, "label": "boat"} if each["segment_id"] in boats else each
                for each in state["segments"]
            ]
            step = {"kind": "relabel", "segment_ids": boats, "label_from": "car",
                    "label_to": "boat", "pixels": None}  # fmt: skip
            page.save(
                {
                    "image_id": image_id, "parent_revision": state["revision"],
                    "status": "corrected", "comment": None, "seconds": 2.0, "operations": [step],
                    "segments": segments,
                }
            )  # fmt: skip


def train_on_reviews(
    model: MaskFormerForInstanceSegmentation, dataset: LabelledImages, *, steps: int, batch: int
) -> MaskFormerForInstanceSegmentation:
    data = TrainingData(
        dataset=dataset,
        augmentation=Augmentation(short_edges=(SIZE[0],), pad_to=SIZE),
        processor=model_processor(),
        seed=0,
    )
    settings = OptimisationSettings(
        num_steps=steps, batch_size=batch, learning_rate=4e-4, backbone_rate=0.3, clip_norm=1.0
    )
    torch.manual_seed(0)
    trainer = Trainer(model, settings=settings, seed=0)
    batches = load_batches(
        data, steps=range(steps), global_batch=batch, rank=0, world_size=1, micro_batches=1,
        num_processes=0, device="cpu",
    )  # fmt: skip
    for step, micro_batches in enumerate(batches):
        trainer.step(micro_batches, step=step)
    return trainer.delivered


def model_processor() -> MaskFormerImageProcessor:
    return MaskFormerImageProcessor.from_pretrained(SAMPLE_MODEL, size={"shortest_edge": SIZE[0]})


def model_that_calls_boats_cars() -> MaskFormerForInstanceSegmentation:
    """The sample model, with what it knows of boats under the name of cars."""
    model = MaskFormerForInstanceSegmentation.from_pretrained(SAMPLE_MODEL)
    with torch.no_grad():
        for rows in model.class_predictor.parameters():
            rows[[CAR, BOAT]] = rows[[BOAT, CAR]]
        model.class_predictor.bias[BOAT] -= 5
    return model


def boat_score(model: MaskFormerForInstanceSegmentation, truth: LabelledImages) -> float:
    """Intersection over union of boats."""
    validation = validation_of(
        ValidationSettings(validation="scenes"), dataset=truth, labels=LABELS, task="semantic",
        resize_rule="transformers",
    )  # fmt: skip
    result = validation.evaluate(model, processor=model_processor(), rank=0, world_size=1)
    return result.per_label["boat"]


def open_reviewed(table: TableStore, **settings: Any) -> LabelledImages:
    return open_labelled(DatasetSettings(dataset=table.uri, **settings))


def scores(
    folder: Path, *, images: int, corrected: int, steps: int, batch: int, judged: int
) -> tuple[float, float]:
    """The model's score for boats before and after it learnt from reviewed images."""
    drawn = scenes_with_boats(images, seed=101)
    table = write_scenes(folder, drawn, boats_are=CAR)
    truth = open_reviewed(write_scenes(folder / "truth", scenes_with_boats(judged, seed=202)))
    model = model_that_calls_boats_cars()
    before = boat_score(model, truth)
    correct(table, drawn, images=corrected)
    reviewed = open_reviewed(table)
    assert len(reviewed) == corrected
    return before, boat_score(train_on_reviews(model, reviewed, steps=steps, batch=batch), truth)


def show(before: float, after: float, *, images: int) -> None:
    print(
        f"figure: every boat of a table called car, {images} images corrected: IoU of boats "
        f"{before:.3f} before, {after:.3f} after"
    )


def test_four_corrected_images_teach_the_model_to_call_boats_boats(tmp_path: Path) -> None:
    """The short part of what follows."""
    before, after = scores(tmp_path, images=6, corrected=4, steps=30, batch=4, judged=6)
    show(before, after, images=4)
    assert before < 0.05
    assert after > 0.2


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_fifty_corrected_images_teach_the_model_to_call_boats_boats(tmp_path: Path) -> None:
    before, after = scores(tmp_path, images=100, corrected=50, steps=150, batch=4, judged=30)
    show(before, after, images=50)
    assert before < 0.05
    assert after > 0.3
