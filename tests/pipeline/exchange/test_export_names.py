"""Names of images in exports: safe for any disk, and different for different images."""

import json
from pathlib import Path

import pytest
from exported_tables import draw, exported, photo
from hypothesis import given
from hypothesis import strategies as st

from pipeline.exchange.names import stem_of, told_apart


@pytest.mark.parametrize(
    ("image_id", "stem"),
    [
        ("a/b.jpg", "a/b"),
        ("a/b.v2", "a/b.v2"),
        ("shard.tar/22.05", "shard/22.05"),
        ("x.tar.gz/a", "x/a"),
        ("../../etc/passwd", "__/__/etc/passwd"),
        ("/absolute//path/./x.png", "absolute/path/x"),
        ("C:\\data\\1.jpg", "C__data_1"),
        ("https://host/a?b=c", "https_/host/a_b=c"),
        (".hidden/.jpg", "_hidden/_jpg"),
        ("ends. /dot.", "ends._/dot_"),
        ("Straße, alt.jpg", "Straße, alt"),
        ("u\u0308ber.jpg", "über"),
        ("", "image"),
        ("line\nbreak\0.jpg", "line_break_"),
    ],
)
def test_names_are_safe_and_near_to_the_image_id(image_id: str, stem: str) -> None:
    has_ending = not image_id.startswith(("shard.tar", "x.tar"))
    assert stem_of(image_id, has_ending=has_ending) == stem


@given(st.text(max_size=300), st.booleans(), st.booleans(), st.booleans())
def test_no_name_leaves_its_folder(
    image_id: str, has_ending: bool, allows_dots: bool, allows_folders: bool
) -> None:
    stem = stem_of(
        image_id, has_ending=has_ending, allows_dots=allows_dots, allows_folders=allows_folders
    )
    assert stem
    assert not stem.startswith("/")
    for part in stem.split("/"):
        assert part not in ("", ".", "..")
        assert len(part.encode()) <= 200
        assert part.isprintable() or not part.isascii()
    assert allows_dots or "." not in stem.rpartition("/")[2]
    assert allows_folders or "/" not in stem


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    first, second = (stem_of("x" * 300 + end, has_ending=False) for end in "ab")
    assert first != second
    assert max(len(first), len(second)) < 200
    assert told_apart("a", "a.jpg") != told_apart("a", "a.png")


def test_images_whose_names_collide_are_told_apart_whatever_their_order(tmp_path: Path) -> None:
    files = {
        name: photo(number, "PNG" if name.lower().endswith("png") else "JPEG", size=(9, 8 + number))
        for number, name in enumerate(
            ("a.jpg", "a.png", "A.JPG", "b/c.jpg", "b_/c.jpg", "labels/x.jpg", "alone.jpg")
        )
    }
    drawn = draw(tmp_path, files=files)
    names = {}
    for format in ("coco_instances", "coco_panoptic"):
        exported(drawn, tmp_path / format, format)
        task = format.removeprefix("coco_")
        content = json.loads((tmp_path / format / f"annotations/{task}_default.json").read_bytes())
        names[format] = {each["table_image_id"]: each["file_name"] for each in content["images"]}
        for image_id, name in names[format].items():
            place = tmp_path / format / "images/default" / name
            assert place.read_bytes() == files[image_id], image_id
    assert names["coco_instances"] == names["coco_panoptic"]
    stems = [name.rpartition(".")[0].casefold() for name in names["coco_instances"].values()]
    assert len({*stems}) == len(files)
    assert names["coco_instances"]["alone.jpg"] == "alone.jpg"
    assert names["coco_instances"]["A.JPG"].endswith(".jpg")
    # `labels/` means something to readers of label maps.
    exported(drawn, tmp_path / "maps", "label_maps")
    assert (tmp_path / "maps/images/labels_/x.jpg").exists()
    assert (tmp_path / "maps/annotations/labels_/x.png").exists()
