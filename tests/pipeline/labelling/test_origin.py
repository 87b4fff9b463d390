"""Where a model comes from, as far as its card or the zoo says."""

import json

import pytest

from maskformer import MODELS
from pipeline.labelling.origin import model_origin
from pipeline.storage import Storage
from pipeline.table.made_by import MadeBy
from pipeline.table.store import TableSpec, TableStore

CARDS = {
    "hub": (
        "---\nlicense: apache-2.0\ndatasets:\n- coco\n- ade20k\n---\n# Model\n",
        ("apache-2.0", "coco, ade20k"),
    ),
    "other licence": ("---\nlicense: other\nlicense_name: acme\n---\n", ("acme", None)),
    "own": (
        "---\ntags: [maskformer]\n---\n- licence of these weights: CC BY-NC 4.0\n"
        "- data: 1,200 images of camvid/train\n",
        ("CC BY-NC 4.0", "camvid/train"),
    ),
    "no card": (None, (None, None)),
    "broken": ("---\na: [\n---\nnothing", (None, None)),
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_says_licence_and_data(tmp_path, kind):
    text, expected = CARDS[kind]
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    found = model_origin(str(tmp_path), folder=str(tmp_path))
    assert (found.licence, found.trained_on) == expected
    assert found.model == str(tmp_path.resolve())
    assert found.code_version


def test_a_model_of_the_zoo_is_known_by_its_name(tmp_path):
    entry = next(iter(MODELS.values()))
    found = model_origin(entry.name, folder=str(tmp_path))
    assert (found.model, found.licence) == (entry.name, entry.licence)
    assert found.trained_on == entry.dataset.title


def test_a_snapshot_of_the_hub_has_a_revision(tmp_path):
    folder = tmp_path / "models--org--name" / "snapshots" / ("ab12" * 10)
    folder.mkdir(parents=True)
    assert model_origin("hf://org/name", folder=str(folder)).revision == "ab12" * 10


def test_another_place_of_the_same_model_goes_on_with_the_table(tmp_path):
    from specs import panoptic_spec

    table = TableStore(str(tmp_path), Storage())
    first = panoptic_spec("car", made_by=MadeBy(model="/here", licence="MIT"))
    second = panoptic_spec("car", made_by=MadeBy(model="/there"))
    table.create(first)
    table.create(second)
    assert first.fingerprint == second.fingerprint == panoptic_spec("car").fingerprint
    assert json.loads(table.storage.read(table.file("_table.json")))["made_by"]["model"] == "/here"
    made = table.as_made(second)
    assert made.made_by == MadeBy(model="/here", licence="MIT")
    assert json.loads(made.file_metadata["made_by"])["licence"] == "MIT"
    assert TableSpec.of(table.spec() or {}) == made


def test_a_table_that_names_no_model_goes_on_without_a_name(tmp_path):
    from specs import panoptic_spec

    table = TableStore(str(tmp_path), Storage())
    table.create(panoptic_spec("car"))
    assert "made_by" not in (table.spec() or {})
    made = table.as_made(panoptic_spec("car", made_by=MadeBy(model="/there")))
    assert "made_by" not in made.file_metadata
