"""Exports for CVAT and Label Studio, read by datumaro and the SDK; names that trip importers."""

import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from drawn_tables import draw_table
from exported_tables import LABELS, Drawn, draw, exported, read_by, sure_masks
from import_files import export, take, without_carried
from PIL import Image

from pipeline.runtime.exit_codes import ExitCode

PLACES = {
    "coco_instances": "annotations/instances_default.json",
    "coco_panoptic": "annotations/panoptic_default.json",
    "cvat": "annotations.xml",
    "label_studio": "tasks.json",
    "label_maps": ".",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def folders(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exports")
    for name in PLACES:
        assert exported(drawn, root / name, name) == ExitCode.DONE
    return {name: root / name for name in PLACES}


def test_datumaro_reads_every_mask_of_cvats_xml(drawn: Drawn, folders: dict[str, Path]) -> None:
    found = read_by("datumaro", f"cvat={folders['cvat']}")["cvat"]
    assert len(found) == len(drawn.truth)
    of_all = sorted(sure_masks(rows["segments"]) for rows in found.values())
    assert of_all == sorted(sure_masks(rows) for rows in drawn.truth.values())
    sizes = sorted(tuple(rows["size"]) for rows in found.values())
    assert sizes == sorted(drawn.sizes.values())


def test_cvats_xml_and_photographs_have_the_size_of_the_masks(
    drawn: Drawn, folders: dict[str, Path]
) -> None:
    root = ElementTree.parse(folders["cvat"] / "annotations.xml").getroot()
    images = [*root.iter("image")]
    assert [int(image.attrib["id"]) for image in images] == [*range(len(drawn.truth))]
    for image in images:
        with Image.open(folders["cvat"] / "images" / image.attrib["name"]) as photo:
            size = (int(image.attrib["width"]), int(image.attrib["height"]))
            assert photo.size == size
            assert photo.getexif().get(0x0112, 1) == 1
    labels = json.loads((folders["cvat"] / "labels.json").read_text())
    assert [label["name"] for label in labels] == [*LABELS]
    assert [name.text for name in root.iterfind("meta/task/labels/label/name")] == [*LABELS]


def test_label_studios_sdk_reads_every_mask_and_score(
    drawn: Drawn, folders: dict[str, Path]
) -> None:
    folder = folders["label_studio"]
    found = read_by("label_studio", str(folder))
    assert sorted(found["labels"]) == sorted(LABELS)
    images = found["images"]
    assert images.keys() == drawn.truth.keys()
    for image_id, task in images.items():
        assert sure_masks(task["segments"]) == sure_masks(drawn.truth[image_id])
        assert task["is_valid"]
        assert task["model_version"]
        address = task["address"].removeprefix("/data/local-files/?d=")
        assert (folder / unquote(address)).is_file()


@pytest.mark.parametrize("name", PLACES)
def test_images_with_difficult_names_come_back_with_and_without_our_ids(
    name: str, drawn: Drawn, folders: dict[str, Path], tmp_path: Path, capsys
) -> None:
    """`a.jpg` beside `a.png`, members of archives, rows, `../climbs`, umlauts and commas."""
    file = folders[name] / PLACES[name]
    asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana")
    total = len(drawn.truth)
    assert take(drawn.table.uri, file, name, *asked) == 0
    assert f"as before: {total}; corrected: 0" in capsys.readouterr().out
    if file.suffix == ".json":
        content = file.read_text()
        try:
            without_carried(file)
            assert take(drawn.table.uri, file, name, *asked) == 0
        finally:
            file.write_text(content)
        assert f"as before: {total}; corrected: 0" in capsys.readouterr().out
    assert not [*tmp_path.rglob("*.parquet")]


def test_many_regions_are_warned_of(tmp_path: Path, capsys, monkeypatch) -> None:
    from pipeline.exchange.exporting import label_studio

    monkeypatch.setattr(label_studio, "MOST_REGIONS", 2)
    table = draw_table(str(tmp_path / "table"), units=("a",)).uri
    export(table, tmp_path / "out", "label_studio")
    said = capsys.readouterr()
    assert "images with more than 2 segments: Label Studio's page gets slow" in said.err
    # Without photographs an address says where they would lie, and the loss is counted.
    assert "label_studio cannot hold it: the address of a photograph" in said.out


@pytest.mark.parametrize(
    ("root", "address"),
    [
        ("https://photos.example/corpus", "https://photos.example/corpus/a/0000.jpg"),
        ("s3://photos/corpus", "s3://photos/corpus/a/0000.jpg"),
        ("/srv/photos", "/data/local-files/?d=a/0000.jpg"),
    ],
)
def test_tasks_name_photographs_that_stay_below_an_image_root(
    tmp_path: Path, capsys, root: str, address: str
) -> None:
    table = draw_table(str(tmp_path / "table"), units=("a",)).uri
    export(table, tmp_path / "out", "label_studio", "--image_root", root)
    assert "cannot hold it" not in capsys.readouterr().out
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert address in [task["data"]["image"] for task in tasks]
    asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana")
    assert take(table, tmp_path / "out" / "tasks.json", "label_studio", *asked) == 0


def test_splits_are_files_of_their_own(tmp_path: Path) -> None:
    table = draw_table(str(tmp_path / "table"), units=("a", "b")).uri
    for name, ending in (("cvat", "xml"), ("label_studio", "json")):
        export(table, tmp_path / name, name, "--splits", "train=0.5,val=0.5")
        for split in ("train", "val"):
            file = tmp_path / name / f"{split}.{ending}"
            asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana")
            assert take(table, file, name, *asked) == 0
    assert not (tmp_path / "r").exists()
