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
    label_ids,
    read_model,
    table_spec,
    with_stuff,
)
from pipeline.labelling.settings import PARTS, SegmentSettings
from pipeline.runtime.settings import parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path)
    MaskFormerImageProcessor().save_pretrained(tmp_path)
    return tmp_path


def read_changed(folder: Path, **changes: object) -> ModelFolder:
    """The model with other values in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes, indent=2, sort_keys=True))
    return read_model(str(folder), resize_rule="transformers")


def fused(model: ModelFolder, *, there: object = None, **settings: object) -> object:
    """Returns the labels to fuse with which the table is made or continued."""
    segmenting = with_stuff(SegmentSettings(**settings), model=model, there=there)
    return table_spec(model, segmenting=segmenting, reading=ReadSettings()).label_ids_to_fuse


def created_spec(model: ModelFolder, **settings: object) -> dict[str, object]:
    """`_table.json` of a table that was made so."""
    segmenting = SegmentSettings(**settings)
    return json.loads(table_spec(model, segmenting=segmenting, reading=ReadSettings()).to_json())


def test_a_new_table_fuses_the_model_s_stuff_and_calls_it_no_thing(folder: Path) -> None:
    model = read_changed(folder, things=[2, 3])
    segmenting = with_stuff(SegmentSettings(), model=model, there=None)
    assert segmenting.label_ids_to_fuse == (0, 1)
    assert [segmenting.is_thing(label) for label in range(4)] == [False, False, True, True]
    assert fused(model, label_ids_to_fuse=(3,)) == (3,)
    assert fused(model, label_ids_to_fuse=()) == ()
    assert fused(model, task="instance") is None
    assert fused(read_changed(folder, things=None)) == ()


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ((LABELS[2],), (2,)),
        ((LABELS[2], LABELS[0]), (0, 2)),
        ((LABELS[2], 2, 1), (1, 2)),
        (("stuff",), (0, 1)),
        (("stuff", LABELS[3]), (0, 1, 3)),
        (("none",), ()),
    ],
)
def test_labels_to_fuse_are_given_by_name_or_id(folder: Path, given, ids) -> None:
    assert fused(read_changed(folder, things=[2, 3]), label_ids_to_fuse=given) == ids


def test_labels_to_fuse_are_names_on_the_command_line() -> None:
    words = ["--corpus=c", "--table=t", "--model=m", "--label-ids-to-fuse", "sky,traffic light,7"]
    settings = parse(PARTS, arguments=words).of(SegmentSettings)
    assert settings.label_ids_to_fuse == ("sky", "traffic light", 7)


def test_labels_that_share_a_name_are_all_fused_by_it(folder: Path) -> None:
    model = dataclasses.replace(read_changed(folder), labels=("sky", "car", "sky", "tree"))
    assert label_ids(["sky"], model=model) == (0, 2)


def test_a_label_that_is_called_stuff_or_none_is_that_label(folder: Path) -> None:
    model = dataclasses.replace(read_changed(folder), labels=("car", "stuff", "none", "tree"))
    assert label_ids(["stuff"], model=model) == (1,)
    assert label_ids(["none"], model=model) == (2,)


def test_a_name_that_no_label_has_is_refused_with_the_nearest(folder: Path) -> None:
    model = dataclasses.replace(read_changed(folder), labels=("sky", "ground", "car"))
    with pytest.raises(ValueError, match=r"no label 'grond'; did you mean ground\?$"):
        label_ids(["grond"], model=model)
    with pytest.raises(ValueError, match=r"no label 'xyz'; it has sky, ground, car$"):
        label_ids(["sky", "xyz"], model=model)


def test_stuff_is_refused_where_nobody_knows_it(folder: Path) -> None:
    model = read_changed(folder, things=None)
    with pytest.raises(ValueError, match="neither the model nor the zoo says which labels are"):
        label_ids(["stuff"], model=model)


def test_where_nobody_knows_what_is_stuff_one_line_says_so(folder: Path) -> None:
    model = read_changed(folder, things=None)
    segmenting = with_stuff(SegmentSettings(), model=model, there=None)
    [line] = fused_lines(segmenting, model=model)
    assert "the model does not say which labels are stuff" in line
    assert "--label_ids_to_fuse" in line
    assert fused_lines(segmenting, model=model, was_given=True) == []
    semantic = with_stuff(SegmentSettings(task="semantic"), model=model, there=None)
    assert fused_lines(semantic, model=model) == []
    known = read_changed(folder, things=[2, 3])
    assert fused_lines(with_stuff(SegmentSettings(), model=known, there=None), model=known) == []


def test_a_table_that_is_there_goes_on_as_it_was_made_and_says_where_the_model_differs(
    folder: Path,
) -> None:
    model = read_changed(folder, things=[2, 3])
    for ids in ((), (3,), (0, 1)):
        there = created_spec(model, label_ids_to_fuse=ids)
        assert fused(model, there=there) == ids
        segmenting = with_stuff(SegmentSettings(), model=model, there=there)
        spec = table_spec(model, segmenting=segmenting, reading=ReadSettings())
        assert spec.difference(there) == ""
        lines = fused_lines(segmenting, model=model)
        assert bool(lines) == (ids != (0, 1))
        assert all("the model's is road, sky" in line for line in lines)
    other = dataclasses.replace(model, labels=("a", "b"), things=None)
    assert fused(other, there=created_spec(model, label_ids_to_fuse=(3,))) == ()


def test_what_people_say_beside_a_table_is_compared_with_it(folder: Path) -> None:
    model = read_changed(folder, things=[2, 3])
    there = created_spec(model, label_ids_to_fuse=())
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
    assert read_changed(folder, things=None, dice_weight=2.0).fingerprint != before


def test_published_models_are_known_by_their_labels_or_their_names_on_the_hub(
    folder: Path,
) -> None:
    entry = MODELS["maskformer-swin-tiny-coco-panoptic"]
    coco = {str(i): name for i, name in entry.id2label.items()}
    assert read_changed(folder, id2label=coco, label2id=None).stuff == tuple(sorted(entry.stuff))
    with pytest.raises(ValueError, match="things must be ids of labels, 0 to 3"):
        read_changed(folder, id2label=dict(enumerate(LABELS)), things=[4])
