"""Opens photographs and label maps in folders, paired by name, as in ADE20K and Cityscapes.

Pairs that need no setting: `images/A.jpg` with `annotations/A.png` (or labels, masks, maps; and
JPEGImages with SegmentationClass), `leftImg8bit/CITY/A_leftImg8bit.png` with
`gtFine/CITY/A_gtFine_labelTrainIds.png`, `A.jpg` beside `A.png`, and any of these with `A_mask.png`
or another usual suffix. `--maps` names another folder of maps, with the same folders inside.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.corpora.reading import ReadSettings
from pipeline.datasets.data_location import LOCATION, DataLocation, labels_source
from pipeline.datasets.dataset import LabelledImages, Truth, rows_schema
from pipeline.datasets.label_names import KnownNames, LabelNames, label_names
from pipeline.datasets.label_values import LabelValues
from pipeline.datasets.maps import MAP_ENDINGS
from pipeline.datasets.settings import DatasetSettings, Kind
from pipeline.datasets.target import LabelError, Labels, Target
from pipeline.runtime.wording import count, list_some
from pipeline.storage import File, Storage

_PHOTO_FOLDERS = ("images", "image", "leftImg8bit", "JPEGImages", "photos")
_MAP_FOLDERS = (
    "annotations", "labels", "masks", "maps", "gtFine", "SegmentationClass", "segmentation",
)  # fmt: skip
_CITYSCAPES = ("_leftImg8bit", "_gtFine_labelTrainIds")
_MAP_SUFFIXES = (
    "_mask", "-mask", ".mask", "_masks", "_label", "-label", "_labels", "_seg", "_segmentation",
    "_annotation", "_gt", "_L", ".jpg", ".jpeg", ".png",
)  # fmt: skip
_OTHER_FORMATS = ("xml", "yaml", "yml", "json", "txt")

_SCHEMA = rows_schema(("map", LOCATION))


@dataclass(frozen=True, kw_only=True)
class LabelMapTruth:
    """Reads one label map for each image."""

    values: LabelValues

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        location = DataLocation(**row["map"])
        return self.values.target(
            location.read(storage), labels=labels, source=labels_source(row, location)
        )


def open_label_maps(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings, known: KnownNames
) -> LabelledImages:
    """Opens the photographs below the data set's folder, in the order of their names.

    Raises:
        LabelError: a photograph has no map, or a map no photograph.
    """
    settings.refuse("images", because="label maps: dataset is the folder of the photographs")
    root = storage.absolute(settings.dataset)
    files = [file for file in storage.files(root) if not _is_hidden(file.uri, root=root)]
    maps_root = None if settings.maps is None else storage.absolute(settings.maps)
    if maps_root in (None, root):
        photos, maps = _sorted_out(files, root=root, map_suffix=settings.map_suffix)
    else:
        photos = _by_stem(
            (file for file in files if not file.uri.startswith(f"{maps_root}/")),
            endings=IMAGE_ENDINGS, root=root, what="photographs",
        )  # fmt: skip
        maps = _by_stem(
            storage.files(str(maps_root)), endings=MAP_ENDINGS, root=str(maps_root), what="maps"
        )
    if not photos or not maps:
        raise LabelError(
            f"{root} holds {count(len(photos), 'photograph')} and {count(len(maps), 'label map')} "
            "in the usual folders; name the folder of the photographs by --dataset and that of the "
            f"maps by --maps{_other_formats(files, root=root)}"
        )
    pairs, notes = _paired(photos, maps, settings=settings, root=root)
    named = label_names(settings, folder=root, storage=storage, known=known)
    rows = [
        {
            "image_id": photo.uri.removeprefix(f"{root}/"),
            "image": asdict(DataLocation.of_file(photo)),
            "map": asdict(DataLocation.of_file(label_map)),
        }
        for photo, label_map in pairs
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    return maps_dataset(
        settings, kind="label_maps", rows=table, named=named, storage=storage, reading=reading,
        notes=notes,
    )  # fmt: skip


def maps_dataset(
    settings: DatasetSettings,
    *,
    kind: Kind,
    rows: pa.Table,
    named: LabelNames,
    segments: Truth | None = None,
    storage: Storage,
    reading: ReadSettings,
    notes: Iterable[str],
) -> LabelledImages:
    """Makes the data set of rows with maps: of segment ids, read by `segments`, or of labels."""
    if segments is not None:
        settings.refuse("ignore_index", "reduce_labels", because="maps of segment ids")
    return LabelledImages(
        uri=storage.absolute(settings.dataset),
        kind=kind,
        truths="labels" if segments is None else "segments",
        labels=named.labels,
        rows=rows,
        truth=segments or LabelMapTruth(values=named.values),
        storage=storage,
        reading=reading,
        values=named.values if segments is None else None,
        notes=(*(named.notes if segments is None else ()), *notes),
    )


def without_unlabelled(
    rows: Iterable[dict[str, Any]], *, settings: DatasetSettings
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Returns the rows that have a map, and the note on the others.

    Raises:
        LabelError: no row has one.
    """
    rows = list(rows)
    labelled = [row for row in rows if row["map"] is not None]
    if not labelled:
        raise LabelError(f"{settings.dataset} holds no photograph with a label map")
    return labelled, unlabelled_notes([row["image_id"] for row in rows if row["map"] is None])


def unlabelled_notes(image_ids: Sequence[str]) -> tuple[str, ...]:
    """Returns the note on photographs that are left out for lack of a label map, if there are."""
    if not image_ids:
        return ()
    are = "is" if len(image_ids) == 1 else "are"
    photographs = f"{count(len(image_ids), 'photograph')} without a label map {are} left out"
    return (f"{photographs}: {list_some(image_ids)}",)


def _sorted_out(
    files: Sequence[File], *, root: str, map_suffix: str | None
) -> tuple[dict[str, File], dict[str, File]]:
    """Returns photographs and maps by their names, without extensions and usual folders."""
    photos: list[tuple[str, File]] = []
    maps: list[tuple[str, File]] = []
    beside: list[File] = []
    for file in files:
        *folders, name = _stem(file, root=root).split("/")
        if any(folder in _MAP_FOLDERS for folder in folders):
            if _ends(file, MAP_ENDINGS):
                maps.append(("/".join([*_without(folders, _MAP_FOLDERS), name]), file))
        elif any(folder in _PHOTO_FOLDERS for folder in folders):
            if _ends(file, IMAGE_ENDINGS):
                photos.append(("/".join([*_without(folders, _PHOTO_FOLDERS), name]), file))
        else:
            beside.append(file)
    if maps and photos:
        return _unique(photos, what="photographs"), _unique(maps, what="maps")
    for these in (beside, files):
        pair = _side_by_side(these, root=root, map_suffix=map_suffix)
        if all(pair):
            return pair
    return dict(photos) or pair[0], dict(maps) or pair[1]


def _side_by_side(
    files: Sequence[File], *, root: str, map_suffix: str | None
) -> tuple[dict[str, File], dict[str, File]]:
    """Tells photographs from maps in one folder: lossy files are photographs; of PNGs the suffix
    tells."""
    maps = _by_stem(files, endings=MAP_ENDINGS, root=root, what="maps")
    lossy = _by_stem(
        (file for file in files if not _ends(file, MAP_ENDINGS)),
        endings=IMAGE_ENDINGS, root=root, what="photographs",
    )  # fmt: skip
    if map_suffix is None:
        map_suffix = "" if lossy.keys() & maps.keys() else _usual_suffix(lossy or maps, maps)
    if not map_suffix:
        return lossy, maps
    others = {name: file for name, file in maps.items() if not name.endswith(map_suffix)}
    if lossy:
        others = {name: file for name, file in others.items() if f"{name}{map_suffix}" in maps}
    of_maps = {name: file for name, file in maps.items() if name.endswith(map_suffix)}
    return {**others, **lossy}, of_maps


def _usual_suffix(photos: Iterable[str], maps: Mapping[str, File]) -> str:
    """Returns the suffix of the maps' names behind those of their photographs; "" for none.

    Raises:
        LabelError: several suffixes lead to maps.
    """
    names = list(photos)
    found = [suffix for suffix in _MAP_SUFFIXES if any(f"{name}{suffix}" in maps for name in names)]
    if len(found) > 1:
        raise LabelError(
            f"photographs have label maps by the suffixes {' and '.join(found)}; name one by "
            "--map_suffix"
        )
    return found[0] if found else ""


def _other_formats(files: Iterable[File], *, root: str) -> str:
    """Tells what to do with files of formats that are not read; "" without such files."""
    others = [f.uri.removeprefix(f"{root}/") for f in files if _ends(f, _OTHER_FORMATS)]
    if not others:
        return ""
    return f". {others[0]} is not read: export COCO's JSON, or segmentation masks"


def _without(folders: Iterable[str], names: Sequence[str]) -> list[str]:
    return [folder for folder in folders if folder not in names]


def _paired(
    photos: Mapping[str, File],
    maps: Mapping[str, File],
    *,
    settings: DatasetSettings,
    root: str,
) -> tuple[list[tuple[File, File]], tuple[str, ...]]:
    is_cityscapes = any(key.endswith(_CITYSCAPES[0]) for key in photos)
    usual = _CITYSCAPES if is_cityscapes else ("", None)
    image_suffix = usual[0] if settings.image_suffix is None else settings.image_suffix
    map_suffix = usual[1] if settings.map_suffix is None else settings.map_suffix
    photos = _by_name(photos, suffix=image_suffix)
    if map_suffix is None:
        map_suffix = "" if photos.keys() & maps.keys() else _usual_suffix(photos, maps)
    maps = _by_name(maps, suffix=map_suffix)
    map_of = _matched(photos, maps)
    bare = [name for name in photos if name not in map_of]
    if bare and not settings.skip_unlabelled:
        others = f", nor have {count(len(bare) - 1, 'more photograph')}" if len(bare) > 1 else ""
        raise LabelError(
            f"image {photos[bare[0]].uri} has no label map {bare[0]}{map_suffix}.png among the "
            f"{len(maps)} of {settings.maps or root}{others}; add it, see --maps and --map_suffix, "
            "or leave out such photographs with --skip_unlabelled"
        )
    if alone := sorted(maps.keys() - {*map_of.values()}):
        raise LabelError(
            f"label map {maps[alone[0]].uri} has no photograph {alone[0]}{image_suffix}; add it, "
            "or see --image_suffix"
        )
    notes = unlabelled_notes([photos[name].uri.removeprefix(f"{root}/") for name in bare])
    return [(photos[name], maps[map_name]) for name, map_name in map_of.items()], notes


def _matched(photos: Mapping[str, File], maps: Mapping[str, File]) -> dict[str, str]:
    """Returns each photograph's map by name; names may differ in case where just one does."""
    by_fold: dict[str, list[str]] = defaultdict(list)
    for name in maps.keys() - photos.keys():
        by_fold[name.casefold()].append(name)
    num_photos = Counter(name.casefold() for name in photos if name not in maps)
    map_of = {}
    for name in photos:
        others = by_fold.get(name.casefold(), ())
        if name in maps:
            map_of[name] = name
        elif len(others) == 1 and num_photos[name.casefold()] == 1:
            map_of[name] = others[0]
    return map_of


def _by_name(files: Mapping[str, File], *, suffix: str) -> dict[str, File]:
    """Returns files by their names without the suffix, and drops files without it."""
    return {key[: len(key) - len(suffix)]: f for key, f in files.items() if key.endswith(suffix)}


def _by_stem(
    files: Iterable[File], *, endings: Sequence[str], root: str, what: str
) -> dict[str, File]:
    named = ((_stem(file, root=root), file) for file in files if _ends(file, endings))
    return _unique(named, what=what)


def _unique(named: Iterable[tuple[str, File]], *, what: str) -> dict[str, File]:
    """Returns files by name; raises LabelError where two have the same name."""
    found: dict[str, File] = {}
    for name, file in named:
        if (twin := found.setdefault(name, file)) is not file:
            raise LabelError(
                f"{what} must differ in more than their endings and folders: {twin.uri} and "
                f"{file.uri} are both {name}; rename one, or name the folders by --dataset and "
                "--maps"
            )
    return found


def _stem(file: File, *, root: str) -> str:
    # Names that people see as equal may differ in how accents are stored.
    return unicodedata.normalize("NFC", file.uri.removeprefix(f"{root}/")).rpartition(".")[0]


def _ends(file: File, endings: Sequence[str]) -> bool:
    return file.uri.rpartition(".")[2].lower() in endings


def _is_hidden(uri: str, *, root: str) -> bool:
    return any(name.startswith(".") for name in uri.removeprefix(f"{root}/").split("/"))
