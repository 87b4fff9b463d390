"""What labels.json and its kin say, and by which rule maps are read."""

import json
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import put
from PIL import Image

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError

PHOTO = encode_image(Image.new("RGB", (3, 2)), "JPEG")
VALUES = np.array([[7, 24, 7], [7, 255, 24]], np.uint8)
ROAD, CAR, BORDER = (128, 64, 128), (0, 0, 142), (224, 224, 192)
VOID = 999


def open_named(
    root: Path, label_map: bytes, said: object = None, *, name: str = "labels.json", **known: object
) -> LabelledImages:
    files = {"a.jpg": PHOTO, "a.png": label_map}
    if said is not None:
        files[name] = said if isinstance(said, bytes) else json.dumps(said).encode()
    return open_labelled(DatasetSettings(dataset=put(root, files)), **known)


def read_label_ids(dataset: LabelledImages) -> list[list[int]]:
    return dataset.target(0).label_map(ignore_index=VOID).tolist()


@pytest.mark.parametrize(
    "said",
    [
        {"7": "road", "24": "car"},
        {"road": 7, "car": 24},
        {"labels": {"24": "car", "7": "road"}, "things": ["car"]},
        {"labels": {"7": "road", "24": "car"}, "things": [24]},
        {"id2label": {"7": "road", "24": "car"}, "model_type": "maskformer"},
    ],
)
def test_names_by_value_say_what_the_values_are(tmp_path: Path, said: object) -> None:
    dataset = open_named(tmp_path, encode_image(VALUES), said)
    assert dataset.labels.names == ("road", "car")
    assert read_label_ids(dataset) == [[0, 1, 0], [0, VOID, 1]]
    if "things" in said:
        assert dataset.labels.things == {1}


def test_names_by_value_may_stand_in_id2label_json(tmp_path: Path) -> None:
    dataset = open_named(
        tmp_path, encode_image(VALUES % 7), {"0": "road", "3": "car"}, name="id2label.json"
    )
    assert read_label_ids(dataset) == [[0, 1, 0], [0, 1, 1]]


def test_a_value_that_no_name_has_is_an_error_that_says_how_to_name_it(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"one of 7, 255, as the names .* the map holds 24"):
        read_label_ids(open_named(tmp_path, encode_image(VALUES), {"7": "road"}))
    with pytest.raises(LabelError, match=r'beside its name .*"7": "road".* the map holds 7, 24'):
        read_label_ids(open_named(tmp_path, encode_image(VALUES), ["road", "car"]))


def test_255_may_be_a_label(tmp_path: Path) -> None:
    binary = np.array([[0, 255, 0], [255, 0, 0]], np.uint8)
    dataset = open_named(tmp_path, encode_image(binary), {"0": "background", "255": "lesion"})
    assert read_label_ids(dataset) == [[0, 1, 0], [1, 0, 0]]


def coloured(*colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, np.uint8).reshape(2, 3, 3)


COLOURED = coloured(ROAD, CAR, ROAD, BORDER, ROAD, CAR)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("labels.json", {"colors": {"road": ROAD, "car": CAR}}),
        ("labels.json", {"labels": ["road", "car"], "colors": {"car": CAR, "road": ROAD}}),
        ("labels.json", {"colors": {"road": ROAD, "car": CAR}, "ignore_color": [1, 2, 3]}),
        ("labelmap.txt", b"# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\n"),
        ("label_colors.txt", b"128 64 128\t\troad\r\n0 0 142 car\n224 224 192 Void\n"),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_tell_labels(tmp_path: Path, name: str, said: object, mode: str) -> None:
    image = Image.fromarray(COLOURED)
    image = image.quantize(3) if mode == "P" else image.convert(mode)
    dataset = open_named(tmp_path, encode_image(image), said, name=name)
    assert dataset.labels.names == ("road", "car")
    assert read_label_ids(dataset) == [[0, 1, 0], [VOID, 0, 1]]


def test_labelmap_txt_gives_the_colours_of_labels_json_beside_it(tmp_path: Path) -> None:
    put(tmp_path, {"labelmap.txt": b"road:128,64,128::\ncar:0,0,142::\nborder:224,224,192::\n"})
    assert read_label_ids(open_named(tmp_path, encode_image(COLOURED), ["car", "road"])) == [
        [1, 0, 1],
        [VOID, 1, 0],
    ]
    grey = np.array([[0, 1, 0], [1, 255, 0]], np.uint8)
    assert read_label_ids(open_named(tmp_path, encode_image(grey), ["car", "road"])) == [
        [0, 1, 0],
        [1, VOID, 0],
    ]


def test_an_unknown_colour_is_named_with_its_pixels_and_its_image(tmp_path: Path) -> None:
    said = {"colors": {"road": ROAD}}
    with pytest.raises(LabelError, match=r"image a.jpg, .*\[0, 0, 142\] is not \(2 pixels\)"):
        read_label_ids(open_named(tmp_path, encode_image(COLOURED), said))
    assert read_label_ids(
        open_named(tmp_path, encode_image(COLOURED), said | {"ignore_color": CAR})
    ) == [
        [0, VOID, 0],
        [VOID, 0, VOID],
    ]


@pytest.mark.parametrize(
    ("said", "piece"),
    [
        ({"colors": {"road": ROAD, "car": ROAD}}, "'road' and 'car' are both [128, 64, 128]"),
        ({"colors": {"road": [0, 256, 0]}}, "each in 0 to 255, got [0, 256, 0]"),
        ({"labels": ["road", "car"], "colors": {"road": ROAD}}, "'car' has none"),
        ({"labels": ["road"], "colors": {"road": ROAD, "car": CAR}}, "got 'car'"),
        ({"labels": {"seven": "road"}}, 'their names by value, {"0": "sky", ...}'),
        ({"labels": {"7": "road", "07": "car"}}, "a value of its own"),
        ({"labels": ["road"], "things": 0}, "things must be a list"),
        ({"labels": ["road"], "things": [[0]]}, "things must be names or ids of labels, got [0]"),
        ({"labels": ["road"], "reduce_labels": "no"}, "reduce_labels must be true or false"),
        ({}, "must hold"),
    ],
)
def test_what_labels_json_says_wrongly_is_named(tmp_path: Path, said: object, piece: str) -> None:
    with pytest.raises(ValueError, match="labels") as caught:
        open_named(tmp_path, encode_image(VALUES), said)
    assert piece in str(caught.value)


def test_a_line_of_a_text_file_that_names_no_colour_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labelmap.txt, line 2: .* got 'car'"):
        open_named(tmp_path, encode_image(VALUES), b"road:1,2,3::\ncar\n", name="labelmap.txt")


REDUCED = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


@pytest.mark.parametrize(
    ("said", "settings", "reduced", "expected"),
    [
        (None, {}, True, [[VOID, 0, 1], [1, VOID, 0]]),
        (["wall", "sky"], {}, True, [[VOID, 0, 1], [1, VOID, 0]]),
        (["wall", "sky"], {"reduce_labels": True}, False, [[VOID, 0, 1], [1, VOID, 0]]),
        (["wall", "sky", "x"], {}, True, [[0, 1, 2], [2, VOID, 1]]),
        ({"labels": ["wall", "sky"], "reduce_labels": False}, {"ignore_index": 2}, True,
         [[0, 1, VOID], [VOID, 0, 1]]),
    ],
)  # fmt: skip
def test_the_models_own_rule_counts_where_the_names_are_the_models(
    tmp_path: Path, said: object, settings: dict[str, object], reduced: bool, expected: object
) -> None:
    values = REDUCED
    if settings.get("ignore_index") == 2:
        values = np.where(REDUCED == 255, 0, REDUCED)
    files = {"a.jpg": PHOTO, "a.png": encode_image(values.astype(np.uint8))}
    if said is not None:
        files["labels.json"] = json.dumps(said).encode()
    names = ("wall", "sky")
    dataset = open_labelled(
        DatasetSettings(dataset=put(tmp_path, files), **settings),
        model_labels=names,
        reduced_labels=names if reduced else None,
    )
    assert read_label_ids(dataset) == expected
    is_by_the_model = reduced and said in (None, ["wall", "sky"])
    assert any("do_reduce_labels" in note for note in dataset.notes) == is_by_the_model
