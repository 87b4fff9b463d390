"""Labels fit the upright photograph, also where they were drawn on it as it is stored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from as_files import encode_image
from corpora import put
from drawn_labels import Scene, coco_instances, coco_panoptic, label_maps, scenes
from PIL import ExifTags, Image

from maskformer import decode_rle
from pipeline.corpora.decoding import image_size
from pipeline.datasets.checking import check_images, fitted
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError, Target

MAX_PIXELS = 10**6
# How an upright picture is stored at each orientation of EXIF.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a:
    a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
}  # fmt: skip


def stored(photo: Image.Image, orientation: int, *, format: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo))))
    return encode_image(image, format, exif=exif)


def maps_beside(folder: Path, drawn: Scene, orientation: int, *, labels: np.ndarray) -> Target:
    """The target of a photograph that is stored at an orientation, beside a map."""
    files = label_maps([drawn])
    files[f"images/val/{drawn.name}.jpg"] = stored(drawn.photo, orientation)
    files[f"annotations/val/{drawn.name}.png"] = encode_image(
        Image.fromarray(np.ascontiguousarray(labels))
    )
    return target_of(open_labelled(DatasetSettings(dataset=put(folder, files))))


def target_of(dataset: LabelledImages) -> Target:
    image = dataset.image(0)
    size = image_size(image.data or b"", name=image.name, max_pixels=MAX_PIXELS)
    return fitted(dataset.target(0), size=size, photo=lambda: image, max_pixels=MAX_PIXELS)


def values(drawn: Scene) -> np.ndarray:
    """Returns the value that a map of the scene has for each pixel."""
    return np.asarray(drawn.label_map)


def label_map_of(target: Target) -> np.ndarray:
    return target.label_map(ignore_index=255)


@pytest.mark.parametrize("orientation", STORED)
def test_a_map_of_the_upright_size_is_taken_as_it_is(tmp_path, orientation):
    (drawn,) = scenes(1)
    target = maps_beside(tmp_path, drawn, orientation, labels=values(drawn))
    np.testing.assert_array_equal(label_map_of(target), values(drawn))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_map_of_the_stored_size_is_put_upright_with_its_photograph(tmp_path, orientation):
    (drawn,) = scenes(1)
    raw = STORED[orientation](values(drawn))
    assert raw.shape != values(drawn).shape
    target = maps_beside(tmp_path, drawn, orientation, labels=raw)
    np.testing.assert_array_equal(label_map_of(target), values(drawn))


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_sizes_cannot_tell_a_map_is_upright(tmp_path, orientation):
    (drawn,) = scenes(1)
    raw = STORED[orientation](values(drawn))
    target = maps_beside(tmp_path, drawn, orientation, labels=raw)
    np.testing.assert_array_equal(label_map_of(target), raw)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_map_of_a_square_photograph_is_upright(tmp_path, orientation):
    (drawn,) = scenes(1)
    side = min(drawn.ids.shape)
    square = Scene(
        name=drawn.name,
        photo=drawn.photo.crop((0, 0, side, side)),
        ids=drawn.ids[:side, :side],
        label_of=drawn.label_of,
    )
    target = maps_beside(tmp_path, square, orientation, labels=values(square))
    np.testing.assert_array_equal(label_map_of(target), values(square))


@pytest.mark.parametrize("orientation", range(1, 5))
def test_a_map_on_its_side_without_a_reason_is_refused(tmp_path, orientation):
    (drawn,) = scenes(1)
    with pytest.raises(LabelError, match="must be of one size"):
        maps_beside(tmp_path, drawn, orientation, labels=np.rot90(values(drawn)))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_each_format_says_how_it_is_stored(tmp_path, format, orientation):
    (drawn,) = scenes(1)
    files = label_maps([drawn])
    files[f"images/val/{drawn.name}.jpg"] = stored(drawn.photo, orientation, format=format)
    raw = np.ascontiguousarray(STORED[orientation](values(drawn)))
    files[f"annotations/val/{drawn.name}.png"] = encode_image(Image.fromarray(raw))
    dataset = open_labelled(DatasetSettings(dataset=put(tmp_path, files)))
    np.testing.assert_array_equal(label_map_of(target_of(dataset)), values(drawn))
    assert check_images(dataset).num_images == 1


def raw_scene(drawn: Scene, orientation: int) -> Scene:
    """The scene as the photograph is stored."""
    ids = np.ascontiguousarray(STORED[orientation](drawn.ids))
    photo = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(drawn.photo))))
    return Scene(name=drawn.name, photo=photo, ids=ids, label_of=drawn.label_of)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (coco_instances, "annotations/instances_val.json"),
        (coco_panoptic, "annotations/panoptic_val.json"),
    ],
)
def test_coco_that_was_drawn_on_the_stored_photograph_is_put_upright(
    tmp_path, orientation, write, name
):
    (drawn,) = scenes(1)
    raw = write([raw_scene(drawn, orientation)])
    (photo,) = (path for path in raw if path.endswith(".jpg"))
    put(tmp_path / "raw", raw | {photo: stored(drawn.photo, orientation)})
    put(tmp_path / "upright", write([drawn]))
    targets = [
        target_of(open_labelled(DatasetSettings(dataset=str(tmp_path / place / name))))
        for place in ("raw", "upright")
    ]
    np.testing.assert_array_equal(targets[0].ids, targets[1].ids)
    for one, other in zip(*(target.segments for target in targets), strict=True):
        assert (one.id, one.label_id) == (other.id, other.label_id)
        if one.rle or other.rle:
            sizes = {"height": targets[0].size[0], "width": targets[0].size[1]}
            np.testing.assert_array_equal(
                decode_rle(one.rle, **sizes), decode_rle(other.rle, **sizes)
            )


def test_a_photograph_is_not_read_for_labels_that_fit():
    target = Target(ids=np.zeros((2, 3), np.uint8), segments=())

    def unread() -> None:
        raise AssertionError("the photograph was read")

    assert fitted(target, size=(2, 3), photo=unread, max_pixels=MAX_PIXELS) is target
