"""What the settings of an export choose, and what they refuse."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from exported_tables import LABELS, READING, Drawn, draw, exported, files_below, photo

from pipeline.exchange.exporting.run import export
from pipeline.exchange.settings import ExportSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.storage import Storage
from pipeline.table.store import segments


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def rows(drawn: Drawn) -> list[dict[str, Any]]:
    """All segments of the table."""
    return segments(drawn.table.uri).to_table().to_pylist()


def instances(folder: Path, name: str = "default") -> Mapping[str, Any]:
    return json.loads((folder / f"annotations/instances_{name}.json").read_bytes())


def chosen(folder: Path) -> set[tuple[str, int]]:
    """Image_id and segment_id of each annotation."""
    content = instances(folder)
    names = {each["id"]: each["table_image_id"] for each in content["images"]}
    return {(names[each["image_id"]], each["segment_id"]) for each in content["annotations"]}


def ids_where(rows: list[dict[str, Any]], condition: Any) -> set[tuple[str, int]]:
    return {(row["image_id"], row["segment_id"]) for row in rows if condition(row)}


def test_without_settings_every_segment_is_there(
    drawn: Drawn, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert exported(drawn, tmp_path / "out", "coco_instances", images="none") == ExitCode.DONE
    assert chosen(tmp_path / "out") == ids_where(rows, lambda row: True)
    whole = json.loads((tmp_path / "out/export.json").read_bytes())
    assert whole["counts"]["images"] == len(drawn.truth)
    assert whole["counts"]["images_in_error"] == 1
    assert whole["counts"]["images_without_segments"] == 1
    assert whole["model"]["model_fingerprint"] == "f" * 64
    assert not (tmp_path / "out/images").exists()


@pytest.mark.parametrize(
    ("settings", "condition"),
    [
        ({"labels": (LABELS[2], "Straße")}, lambda row: row["label"] in (LABELS[2], "Straße")),
        ({"min_score": 0.7}, lambda row: row["score"] >= 0.7 - 1e-6),
        (
            {"where": "area > 40 AND label <> 'car'"},
            lambda row: row["area"] > 40 and row["label"] != "car",
        ),
        ({"where": "origin = 'human'"}, lambda row: False),
        ({"segments": "things"}, lambda row: row["is_thing"]),
        (
            {"segments": "things", "min_score": 0.6, "where": "bbox_w > 8 -- wide"},
            lambda row: row["is_thing"] and row["score"] >= 0.6 - 1e-6 and row["bbox_w"] > 8,
        ),
    ],
)  # fmt: skip
def test_settings_choose_segments(
    drawn: Drawn, rows: list[dict[str, Any]], tmp_path: Path, settings: Any, condition: Any
) -> None:
    out = tmp_path / "out"
    assert exported(drawn, out, "coco_instances", images="none", **settings) == ExitCode.DONE
    expected = ids_where(rows, condition)
    assert chosen(out) == expected
    content = instances(out)
    assert len(content["images"]) == len(drawn.truth), "images stay, with or without segments"
    counts = json.loads((out / "export.json").read_bytes())["counts"]
    assert counts["segments"] == len(expected)
    assert counts["segments"] + counts["segments_not_selected"] == len(rows)


def test_chosen_labels_are_numbered_from_one_in_the_order_of_the_table(
    drawn: Drawn, tmp_path: Path
) -> None:
    names = ("Straße", LABELS[2])
    exported(drawn, tmp_path / "out", "coco_instances", images="none", labels=names)
    categories = instances(tmp_path / "out")["categories"]
    assert [(each["id"], each["name"]) for each in categories] == [(1, LABELS[2]), (2, "Straße")]
    assert [each["isthing"] for each in categories] == [1, 0]
    assert all(len(each["color"]) == 3 for each in categories)


def test_a_table_that_grows_moves_no_image_to_another_split(tmp_path: Path) -> None:
    files = {f"{number:03}.jpg": photo(number, size=(8, 9)) for number in range(60)}
    small = draw(tmp_path / "small", files=dict([*files.items()][:20]))
    large = draw(tmp_path / "large", files=files)
    shares = ("train=0.7", "val=0.2", "test=0.1")
    found = []
    for drawn, name in ((small, "s"), (large, "l")):
        out = tmp_path / name
        exported(drawn, out, "coco_instances", images="none", splits=shares)
        found.append({
            each["table_image_id"]: split
            for split in ("train", "val", "test")
            if (out / f"annotations/instances_{split}.json").exists()
            for each in instances(out, split)["images"]
        })  # fmt: skip
    before, after = found
    assert (len(before), len(after)) == (20, 60)
    assert before.items() <= after.items()
    counts = json.loads((tmp_path / "l/export.json").read_bytes())["counts"]["splits"]
    assert counts["train"] > counts["val"] > 0


def test_a_json_holds_so_many_images_and_ids_go_on(drawn: Drawn, tmp_path: Path) -> None:
    out = tmp_path / "out"
    exported(drawn, out, "coco_panoptic", shard_images=5)
    names = sorted(path.name for path in (out / "annotations").glob("*.json"))
    assert names == [f"panoptic_default-000{number}.json" for number in (1, 2, 3)]
    contents = [json.loads((out / "annotations" / name).read_bytes()) for name in names]
    assert [len(each["images"]) for each in contents] == [5, 5, len(drawn.truth) - 10]
    ids = [image["id"] for each in contents for image in each["images"]]
    assert ids == [*range(1, len(drawn.truth) + 1)]
    for name, content in zip(names, contents, strict=True):
        subset = name.removeprefix("panoptic_").removesuffix(".json")
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            assert (out / "images" / subset / image["file_name"]).exists()
            assert (out / "annotations" / name[:-5] / annotation["file_name"]).exists()
            stem = image["file_name"].rpartition(".")[0]
            assert annotation["file_name"] == f"{stem}.png"


def test_shards_of_other_formats_are_bounded_too(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "w", "webdataset", shard_images=5)
    exported(drawn, tmp_path / "h", "hf", shard_images=5)
    assert len([*(tmp_path / "w").glob("default-*.tar")]) == 3
    assert len([*(tmp_path / "h").glob("data/train-*.parquet")]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("cat",)}, r"labels must be labels of the table, got 'cat'; did you mean car"),
        ({"where": "colour > 3"}, r"where must be a condition in DuckDB's SQL on image_id, .*colo"),
        ({"where": "true; DROP TABLE x"}, r"where must be a condition"),
        ({"where": "true) OR (score IN (SELECT 1)"}, r"where must be a condition"),
        ({"format": "hf", "images": "none"}, r"hf holds the photographs in its own files"),
        ({"images": "link", "output": "s3://bucket/out"}, r"link needs an output on a disk"),
        ({"labels": ("sky",), "segments": "things"}, r"no label is left to export"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(
    drawn: Drawn, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    asked = {"output": str(tmp_path / "out"), "format": "coco_instances", **settings}
    with pytest.raises(ValueError, match=message):
        export(ExportSettings(table=drawn.table.uri, **asked), storage=Storage(), reading=READING)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"splits": ("train=0.5", "val=0.4")},
        {"splits": ("train",)},
        {"splits": ("a/b=1",)},
        {"splits": ("train=0.5", "train=0.5")},
        {"min_score": 1.5},
        {"shard_images": 0},
        {"images": "none", "image_root": "elsewhere"},
        {"reviewed": "ignore", "reviews": "elsewhere"},
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))[:6]):
        ExportSettings(table="t", output="o", format="coco_instances", **settings)


def test_another_export_in_the_folder_is_refused_with_what_differs(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    exported(drawn, out, "coco_instances", images="none", min_score=0.5)
    before = files_below(out)
    with pytest.raises(ValueError, match=r"another export: settings.min_score is 0.5 there, and n"):
        exported(drawn, out, "coco_instances", images="none")
    with pytest.raises(ValueError, match=r"another export: format is \"coco_instances\" there"):
        exported(drawn, out, "yolo", images="none", min_score=0.5)
    assert exported(drawn, out, "coco_instances", images="none", min_score=0.5) == ExitCode.DONE
    assert "holds this export already" in capsys.readouterr().out
    assert files_below(out) == before


def test_a_folder_with_other_files_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"must be empty .* it holds notes\.txt"):
        exported(drawn, tmp_path / "out", "coco_instances")
    (tmp_path / "out/export.json").write_text("{}")
    with pytest.raises(ValueError, match=r"export\.json is not of an export"):
        exported(drawn, tmp_path / "out", "coco_instances")


def test_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no segment table"):
        export(
            ExportSettings(table=str(tmp_path), output=str(tmp_path / "o"), format="yolo"),
            storage=Storage(),
            reading=READING,
        )
