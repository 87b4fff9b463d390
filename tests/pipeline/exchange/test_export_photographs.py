"""The photographs of an export: from where they are now, upright, or left where they are."""

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from exported_tables import Drawn, corpus, draw, exported, files_below, photo
from PIL import Image
from web import site

from pipeline.exchange.exporting.photographs import ending_by_bytes
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.runtime.exit_codes import ExitCode


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    return draw(tmp_path)


def names(folder: Path) -> dict[str, str]:
    """The name of each image in the export, by image_id."""
    content = json.loads((folder / "annotations/instances_default.json").read_bytes())
    return {each["table_image_id"]: each["file_name"] for each in content["images"]}


def photos(folder: Path) -> Mapping[str, Path]:
    found = {key: folder / "images/default" / name for key, name in names(folder).items()}
    assert all(path.exists() for path in found.values())
    return found


def counts(folder: Path) -> dict[str, dict[str, int]]:
    return json.loads((folder / "export.json").read_bytes())["counts"]


def test_bytes_are_copied_and_turned_photographs_are_written_upright(
    drawn: Drawn, tmp_path: Path
) -> None:
    exported(drawn, tmp_path / "out", "coco_instances")
    found, files = photos(tmp_path / "out"), corpus()
    assert found["a.jpg"].read_bytes() == files["a.jpg"]
    assert found["a.png"].read_bytes() == files["a.png"]
    assert found["shard.tar/one"].read_bytes() == photo(7)
    assert found["shard.tar/deep/pair"].read_bytes() == photo(9, "PNG")
    assert found["shard.tar/deep/pair"].suffix == ".png"
    assert found["key/0"].read_bytes() == photo(10)
    assert found["key/0"].suffix == ".jpg"
    assert found["../climbs"].suffix == ".png"
    for image_id in ("turned.jpg", "turned.png"):
        with Image.open(found[image_id]) as picture:
            assert picture.getexif().get(0x0112, 1) == 1
            assert picture.size[::-1] == drawn.sizes[image_id]
            upright = np.asarray(picture, int)
        with Image.open(io.BytesIO(files[image_id])) as stored:
            turned = np.rot90(np.asarray(stored, int), -1 if image_id == "turned.jpg" else 1)
        assert np.abs(upright - turned).mean() < 3


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (photo(1), "jpg"),
        (photo(1, "PNG"), "png"),
        (photo(1, "WEBP"), "webp"),
        (photo(1, "GIF"), "gif"),
        (photo(1, "BMP"), "bmp"),
        (photo(1, "TIFF"), "tif"),
        (photo(1, "AVIF"), "avif"),
        (photo(1, "PPM"), "ppm"),
    ],
)
def test_bytes_tell_the_extension(data: bytes, ending: str) -> None:
    assert ending_by_bytes(data) == ending


def test_links_lead_to_upright_files_and_the_rest_is_copied(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "out", "coco_instances", images="link")
    found = photos(tmp_path / "out")
    linked = {image_id for image_id, path in found.items() if path.is_symlink()}
    assert linked == {"a.jpg", "a.png", "town/Straße, alt.jpg", "empty.jpg", "plain.jpg"}
    assert found["a.jpg"].resolve() == tmp_path / "photos/a.jpg"


def test_a_corpus_that_has_moved_is_found_by_its_paths(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "before", "coco_instances")
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    shutil.rmtree(tmp_path / "photos")
    code = exported(drawn, tmp_path / "lost", "coco_instances")
    assert code == ExitCode.DONE_WITH_ERRORS
    assert counts(tmp_path / "lost")["left_out"] == {"SourceChanged": len(drawn.truth)}
    moved = str(tmp_path / "moved")
    assert exported(drawn, tmp_path / "out", "coco_instances", image_root=moved) == ExitCode.DONE
    before, after = files_below(tmp_path / "before"), files_below(tmp_path / "out")
    assert before.pop("export.json") != after.pop("export.json")
    assert before == after


def test_a_corpus_that_has_moved_to_a_web_server_is_read_there(
    drawn: Drawn, tmp_path: Path
) -> None:
    with site(corpus()) as server:
        root = server.url.rstrip("/")
        code = exported(drawn, tmp_path / "out", "coco_instances", image_root=root)
    assert code == ExitCode.DONE
    assert photos(tmp_path / "out")["a.jpg"].read_bytes() == corpus()["a.jpg"]


def test_photographs_that_changed_are_left_out_by_name(
    drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos/a.jpg").write_bytes(photo(99))
    (tmp_path / "photos/a.png").unlink()
    code = exported(drawn, tmp_path / "out", "coco_instances")
    assert code == ExitCode.DONE_WITH_ERRORS
    said = capsys.readouterr().err
    assert "2 images left out, SourceChanged" in said
    assert "a.jpg" in said
    assert {*drawn.truth} - {*names(tmp_path / "out")} == {"a.jpg", "a.png"}
    # Without photographs nothing is amiss.
    assert exported(drawn, tmp_path / "none", "coco_instances", images="none") == ExitCode.DONE
    assert {*names(tmp_path / "none")} == {*drawn.truth}


def test_a_moved_photograph_of_another_size_is_left_out(drawn: Drawn, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    other = photo(1, size=(15, 22))
    place = tmp_path / "moved/a.jpg"
    place.write_bytes(other + b"\0" * (place.stat().st_size - len(other)))
    (tmp_path / "moved/plain.jpg").write_bytes(b"short")
    moved = str(tmp_path / "moved")
    exported(drawn, tmp_path / "out", "coco_instances", image_root=moved)
    assert counts(tmp_path / "out")["left_out"] == {"SizeChanged": 1, "SourceChanged": 1}


def test_an_archive_that_changed_loses_its_images_alone(drawn: Drawn, tmp_path: Path) -> None:
    os.utime(tmp_path / "photos/shard.tar", (1, 1))
    assert exported(drawn, tmp_path / "out", "webdataset") == ExitCode.DONE_WITH_ERRORS
    assert counts(tmp_path / "out")["left_out"] == {"SourceChanged": 3}
    assert counts(tmp_path / "out")["images"] == len(drawn.truth) - 3


def test_a_compacted_table_gives_the_same_export(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "before", "coco_panoptic")
    compact(drawn.table, CompactSettings(table=drawn.table.uri))
    assert drawn.table.units().compacted
    exported(drawn, tmp_path / "after", "coco_panoptic")
    assert files_below(tmp_path / "before") == files_below(tmp_path / "after")


def test_a_table_without_plans_finds_its_photographs_too(drawn: Drawn, tmp_path: Path) -> None:
    exported(drawn, tmp_path / "before", "webdataset")
    shutil.rmtree(tmp_path / "table/_runs")
    exported(drawn, tmp_path / "after", "webdataset")
    before, after = files_below(tmp_path / "before"), files_below(tmp_path / "after")
    assert before.pop("export.json") != after.pop("export.json")
    assert before == after
