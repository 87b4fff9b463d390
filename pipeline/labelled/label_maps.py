"""Photographs and label maps in folders, paired by name, as ADE20K, Cityscapes and CamVid are.

Found without being told: `images/A.jpg` with `annotations/A.png` (or labels, masks, maps; and
JPEGImages with SegmentationClass), `leftImg8bit/CITY/A_leftImg8bit.png` with
`gtFine/CITY/A_gtFine_labelTrainIds.png`, and `A.jpg` beside `A.png`. Other maps are named by a
folder of their own, which has the same folders inside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.corpora.formats import IMAGE_ENDINGS
from pipeline.corpora.reading import ReadSettings
from pipeline.labelled.dataset import LabelledImages, rows_schema, where
from pipeline.labelled.label_names import label_names
from pipeline.labelled.maps import MAP_ENDINGS, decode_label_map
from pipeline.labelled.places import PLACE, Place
from pipeline.labelled.settings import DatasetSettings
from pipeline.labelled.target import LabelError, Labels, MapValues, Target, label_map_target
from pipeline.storage import File, Storage

_PHOTO_FOLDERS = ("images", "image", "leftImg8bit", "JPEGImages", "photos")
_MAP_FOLDERS = (
    "annotations", "labels", "masks", "maps", "gtFine", "SegmentationClass", "segmentation",
)  # fmt: skip
_CITYSCAPES = ("_leftImg8bit", "_gtFine_labelTrainIds")
_SCHEMA = rows_schema(("map", PLACE))


@dataclass(frozen=True, kw_only=True)
class LabelMapTruth:
    """One label map per image."""

    meaning: MapValues

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        place = Place(**row["map"])
        name = where(row, place)
        return label_map_target(
            decode_label_map(place.read(storage), place=name),
            labels=labels,
            meaning=self.meaning,
            place=name,
        )


def open_label_maps(
    settings: DatasetSettings,
    *,
    storage: Storage,
    reading: ReadSettings,
    model_labels: Sequence[str] | None,
) -> LabelledImages:
    """The photographs below the data set's place, in the order of their names.

    Raises:
        LabelError: a photograph has no map, or a map no photograph.
    """
    settings.refuse("images", because="label maps: dataset is the folder of the photographs")
    root = storage.absolute(settings.dataset)
    named = label_names(settings, folder=root, storage=storage, model_labels=model_labels)
    files = [file for file in storage.files(root) if not _is_hidden(file.uri, root=root)]
    maps_root = None if settings.maps is None else storage.absolute(settings.maps)
    if maps_root is None:
        photos, maps = _sorted_out(files, root=root)
    else:
        photos = {
            _stem(file, root=root): file
            for file in files
            if _ends(file, IMAGE_ENDINGS) and not file.uri.startswith(f"{maps_root}/")
        }
        maps = {
            _stem(file, root=maps_root): file
            for file in storage.files(maps_root)
            if _ends(file, MAP_ENDINGS)
        }
    pairs = _paired(photos, maps, settings=settings, root=root)
    rows = [
        {
            "image_id": photo.uri.removeprefix(f"{root}/"),
            "image": asdict(place_of(photo)),
            "map": asdict(place_of(label_map)),
        }
        for photo, label_map in pairs
    ]
    return LabelledImages(
        uri=root,
        kind="label_maps",
        truths="labels",
        labels=named.labels,
        rows=pa.Table.from_pylist(rows, schema=_SCHEMA),
        truth=LabelMapTruth(meaning=named.meaning),
        storage=storage,
        reading=reading,
    )


def place_of(file: File) -> Place:
    """The whole file."""
    return Place(uri=file.uri, etag=file.etag, size=file.size)


def _sorted_out(files: Sequence[File], *, root: str) -> tuple[dict[str, File], dict[str, File]]:
    """Photographs and maps by their names without extensions and without the folders that tell
    the one from the other."""
    photos: dict[str, File] = {}
    maps: dict[str, File] = {}
    beside: list[File] = []
    for file in files:
        *folders, name = _stem(file, root=root).split("/")
        if any(folder in _MAP_FOLDERS for folder in folders):
            if _ends(file, MAP_ENDINGS):
                maps["/".join([*_without(folders, _MAP_FOLDERS), name])] = file
        elif any(folder in _PHOTO_FOLDERS for folder in folders):
            if _ends(file, IMAGE_ENDINGS):
                photos["/".join([*_without(folders, _PHOTO_FOLDERS), name])] = file
        else:
            beside.append(file)
    if maps and photos:
        return photos, maps
    lossy = [file for file in beside if _ends(file, IMAGE_ENDINGS) and not _ends(file, MAP_ENDINGS)]
    return (
        {_stem(file, root=root): file for file in lossy},
        {_stem(file, root=root): file for file in beside if _ends(file, MAP_ENDINGS)},
    )


def _without(folders: Iterable[str], names: Sequence[str]) -> list[str]:
    return [folder for folder in folders if folder not in names]


def _paired(
    photos: Mapping[str, File],
    maps: Mapping[str, File],
    *,
    settings: DatasetSettings,
    root: str,
) -> list[tuple[File, File]]:
    if not photos or not maps:
        raise LabelError(
            f"{root} holds {len(photos)} photographs and {len(maps)} label maps in places where "
            "they are looked for; name the folder of the photographs by --dataset and that of the "
            "maps by --maps"
        )
    is_cityscapes = any(key.endswith(_CITYSCAPES[0]) for key in photos)
    usual = _CITYSCAPES if is_cityscapes else ("", "")
    image_suffix = usual[0] if settings.image_suffix is None else settings.image_suffix
    map_suffix = usual[1] if settings.map_suffix is None else settings.map_suffix
    photos = _by_name(photos, suffix=image_suffix)
    maps = _by_name(maps, suffix=map_suffix)
    for name, photo in photos.items():
        if name not in maps:
            raise LabelError(
                f"image {photo.uri} has no label map {name}{map_suffix}.png among the "
                f"{len(maps)} of {settings.maps or root}; add it, or see --maps and --map_suffix"
            )
    for name, label_map in maps.items():
        if name not in photos:
            raise LabelError(
                f"label map {label_map.uri} has no photograph {name}{image_suffix}; add it, or "
                "see --image_suffix"
            )
    return [(photo, maps[name]) for name, photo in photos.items()]


def _by_name(files: Mapping[str, File], *, suffix: str) -> dict[str, File]:
    """Files by their names without the suffix; those without it are none of ours."""
    return {key[: len(key) - len(suffix)]: f for key, f in files.items() if key.endswith(suffix)}


def _stem(file: File, *, root: str) -> str:
    return file.uri.removeprefix(f"{root}/").rpartition(".")[0]


def _ends(file: File, endings: Sequence[str]) -> bool:
    return file.uri.rpartition(".")[2].lower() in endings


def _is_hidden(uri: str, *, root: str) -> bool:
    return any(name.startswith(".") for name in uri.removeprefix(f"{root}/").split("/"))
