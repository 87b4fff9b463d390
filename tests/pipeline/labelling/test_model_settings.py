"""What a run knows of its model, and what a table fuses where nobody says."""

import dataclasses
import json
from pathlib import Path

import pytest
from small_model import LABELS, small_model

from maskformer import MODELS, MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.model import (
    ModelFolder,
    fused_lines,
    read_model,
    table_spec,
    with_stuff,
)
from pipeline.labelling.settings import SegmentSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path)
    MaskFormerImageProcessor().save_pretrained(tmp_path)
    return tmp_path


def read(folder: Path, **changes: object) -> ModelFolder:
    """The model with other values in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes, indent=2, sort_keys=True))
    return read_model(str(folder), resize_rule="transformers")


def fused(model: ModelFolder, *, there: object = None, **settings: object) -> object:
    """What the table is made or gone on with."""
    segmenting = with_stuff(SegmentSettings(**settings), model=model, there=there)
    return table_spec(model, segmenting=segmenting, reading=ReadSettings()).label_ids_to_fuse


def made(model: ModelFolder, **settings: object) -> dict[str, object]:
    """`_table.json` of a table that was made so."""
    segmenting = SegmentSettings(**settings)
    return json.loads(table_spec(model, segmenting=segmenting, reading=ReadSettings()).to_json())


def test_a_new_table_fuses_the_model_s_stuff_and_calls_it_no_thing(folder: Path) -> None:
    model = read(folder, things=[2, 3])
    segmenting = with_stuff(SegmentSettings(), model=model, there=None)
    assert segmenting.label_ids_to_fuse == (0, 1)
    assert [segmenting.is_thing(label) for label in range(4)] == [False, False, True, True]
    assert fused(model, label_ids_to_fuse=(3,)) == (3,)
    assert fused(model, label_ids_to_fuse=()) == ()
    assert fused(model, task="instance") is None
    assert fused(read(folder, things=None)) == ()


def test_a_table_that_is_there_goes_on_as_it_was_made_and_says_where_the_model_differs(
    folder: Path,
) -> None:
    model = read(folder, things=[2, 3])
    for ids in ((), (3,), (0, 1)):
        there = made(model, label_ids_to_fuse=ids)
        assert fused(model, there=there) == ids
        segmenting = with_stuff(SegmentSettings(), model=model, there=there)
        spec = table_spec(model, segmenting=segmenting, reading=ReadSettings())
        assert spec.difference(there) == ""
        lines = fused_lines(segmenting, model=model)
        assert bool(lines) == (ids != (0, 1))
        assert all("the model's is road, sky" in line for line in lines)
    other = dataclasses.replace(model, labels=("a", "b"), things=None)
    assert fused(other, there=made(model, label_ids_to_fuse=(3,))) == ()


def test_what_people_say_beside_a_table_is_compared_with_it(folder: Path) -> None:
    model = read(folder, things=[2, 3])
    there = made(model, label_ids_to_fuse=())
    segmenting = with_stuff(SegmentSettings(label_ids_to_fuse=(0,)), model=model, there=there)
    spec = table_spec(model, segmenting=segmenting, reading=ReadSettings())
    assert "label_ids_to_fuse: the table has [], this run [0]" in spec.difference(there)


def test_to_say_which_labels_are_things_makes_no_other_model(folder: Path) -> None:
    before = read_model(str(folder), resize_rule="transformers").fingerprint
    model = small_model()
    model.config.things = [2, 3]
    model.save_pretrained(folder)
    told = read_model(str(folder), resize_rule="transformers")
    assert told.fingerprint == before
    assert told.things == {2, 3}
    assert read(folder, things=None, dice_weight=2.0).fingerprint != before


def test_published_models_are_known_by_their_labels_or_their_names_on_the_hub(
    folder: Path,
) -> None:
    entry = MODELS["maskformer-swin-tiny-coco-panoptic"]
    coco = {str(i): name for i, name in entry.id2label.items()}
    assert read(folder, id2label=coco, label2id=None).stuff == tuple(sorted(entry.stuff))
    with pytest.raises(ValueError, match="things must be ids of labels, 0 to 3"):
        read(folder, id2label=dict(enumerate(LABELS)), things=[4])
