"""Opens tar shards of WebDataset: a photograph and a map with one name, side by side.

`KEY.png` beside `KEY.jpg` is a label map. With a `KEY.json` that has `segments_info`, a list of
`{"id", "label_id", "iscrowd"}` (or `category_id`, the label's value in labels.json), the PNG holds
segment ids, in grey or as COCO spreads them. The headers are read once to locate the members, so
that each member is read by itself.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa

from pipeline.corpora.archives import ArchiveDamage, Member, members
from pipeline.corpora.compressed import compression_of
from pipeline.corpora.corpus import ARCHIVE_ENDINGS
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.samples import is_hidden, key_and_extension
from pipeline.datasets.data_location import LOCATION, DataLocation, labels_source, read_cell
from pipeline.datasets.dataset import LabelledImages, rows_schema
from pipeline.datasets.label_maps import maps_dataset, without_unlabelled
from pipeline.datasets.label_names import KnownNames, label_names
from pipeline.datasets.maps import read_id_map
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError, Labels, SegmentInfo, Target
from pipeline.runtime.threads import map_ahead
from pipeline.storage import File, Storage

DESCRIBED_MAPS = rows_schema(("map", LOCATION), ("segments", LOCATION))
"""The schema of a table of maps, each with a description of its segments, or null."""
_SHARDS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class DescribedMapTruth:
    """Reads maps of segment ids, and their `segments_info` in a JSON or a Parquet cell."""

    label_values: tuple[int, ...] | None
    """The value of each label in `segments_info`, by label id; None where they are the ids."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        location = DataLocation(**row["segments"])
        if location.row is None:
            data = location.read(storage)
        else:
            data = _cell_json(read_cell(location, storage=storage))
        segments = parse_segments(
            data, label_values=self.label_values, source=labels_source(row, location)
        )
        return read_id_map(row, segments, labels=labels, storage=storage)


def _cell_json(cell: Any) -> bytes:
    """Returns a cell's `segments_info` as JSON."""
    if isinstance(cell, dict) and "segments_info" not in cell:  # columns of lists, as the hub's
        cell = [
            dict(zip(cell, values, strict=True))
            for values in zip(*(column or () for column in cell.values()), strict=False)
        ]
    text = cell if isinstance(cell, str) else json.dumps(cell)
    return (text if text.startswith("{") else f'{{"segments_info": {text}}}').encode()


def open_shards(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings, known: KnownNames
) -> LabelledImages:
    """Opens the samples of a tar, or of all tars below a prefix, in their order.

    Raises:
        LabelError: a shard is compressed or damaged, or a sample lacks its photograph or its map.
    """
    settings.refuse(
        "images", "maps", "image_suffix", "map_suffix", "label_column", because="tar shards"
    )
    root, files = data_files(settings, endings=ARCHIVE_ENDINGS, storage=storage)
    named = label_names(settings, folder=root, storage=storage, known=known)
    samples = [
        sample
        for shard in shard_members(files, storage=storage)
        for sample in _samples(shard, root=root, settings=settings, reading=reading)
    ]
    samples, notes = without_unlabelled(samples, settings=settings)
    truth = None
    has_segments = [sample["segments"] is not None for sample in samples]
    if has_segments[0] and _describes_segments(samples[0], storage=storage):
        if not all(has_segments):
            bare = samples[has_segments.index(False)]
            raise LabelError(
                f"image {bare['image_id']} has no .json with segments_info, and others have; "
                "a data set has label maps or segments, not both"
            )
        truth = DescribedMapTruth(label_values=named.values.values)
    rows = pa.Table.from_pylist(samples, schema=DESCRIBED_MAPS)
    return maps_dataset(
        settings, kind="webdataset", rows=rows, named=named, segments=truth, storage=storage,
        reading=reading, notes=notes,
    )  # fmt: skip


def data_files(
    settings: DatasetSettings, *, endings: Sequence[str], storage: Storage
) -> tuple[str, list[File]]:
    """Returns the data set's folder and its files: those with these endings, or those that match
    a pattern in the last name, as train-*.tar."""
    root = storage.absolute(settings.dataset)
    folder, _, name = root.rpartition("/")
    if "*" in name:
        beside = [f for f in storage.files(folder) if f.uri.rpartition("/")[0] == folder]
        return folder, [f for f in beside if fnmatchcase(f.uri.rpartition("/")[2], name)]
    single = storage.file(root)
    if single is not None:
        return root.rpartition("/")[0], [single]
    dotted = tuple(f".{ending}" for ending in endings)
    return root, [f for f in storage.files(root) if f.uri.lower().endswith(dotted)]


def shard_members(
    files: Sequence[File], *, storage: Storage
) -> Iterator[tuple[File, list[Member]]]:
    """Yields each tar with its members, read from the headers alone.

    Raises:
        LabelError: a tar is compressed or damaged.
    """

    def look(file: File) -> tuple[File, list[Member]]:
        with storage.open(file.uri, etag=file.etag, size=file.size) as data:
            if compression_of(data.read(8)) is not None:
                raise LabelError(
                    f"{file.uri} is compressed, so that no image can be read by itself; store "
                    "the plain tar: photographs do not get smaller"
                )
            try:
                return file, [m for m in members(data) if not is_hidden(m.name)]
            except ArchiveDamage as damage:
                raise LabelError(f"{file.uri}: {damage}") from damage

    yield from map_ahead(look, files, num_threads=_SHARDS_AT_ONCE)


def member_location(file: File, member: Member) -> DataLocation:
    """Returns the location of an archive member."""
    return DataLocation(
        uri=file.uri,
        etag=file.etag,
        size=file.size,
        member=member.name,
        start=member.data_offset,
        stop=member.data_offset + member.size,
    )


def parse_segments(
    data: bytes, *, label_values: Sequence[int] | None, source: str
) -> list[SegmentInfo]:
    """Parses a JSON with `segments_info`.

    Args:
        label_values: the value of each label in the JSON, by label id; None where they are the ids.

    Raises:
        LabelError: it has another form.
    """
    try:
        return [
            SegmentInfo(
                id=_whole(each["id"]),
                label_id=_label_id(each, label_values=label_values, source=source),
                is_crowd=_flag(each.get("iscrowd")),
            )
            for each in json.loads(data)["segments_info"]
        ]
    except LabelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelError(
            f'{source}: segments must be {{"segments_info": [{{"id": 1, "label_id": 0}}, ...]}}, '
            f"got {data[:60]!r}"
        ) from error


def _label_id(each: Mapping[str, Any], *, label_values: Sequence[int] | None, source: str) -> int:
    given = _whole(each["label_id"] if "label_id" in each else each["category_id"])
    if label_values is None:
        return given
    if given not in label_values:
        raise LabelError(
            f"{source}: segment {each['id']} has label {given}, which is none of the values of "
            f"labels.json, as {label_values[0]}"
        )
    return label_values.index(given)


def _whole(given: Any) -> int:
    value = int(given)
    if value != float(given):
        raise ValueError(f"must be a whole number, got {given}")
    return value


def _flag(given: Any) -> bool:
    if given not in (None, 0, 1):
        raise ValueError(f"must be 0 or 1, got {given!r}")
    return bool(given)


def _samples(
    shard: tuple[File, list[Member]],
    *,
    root: str,
    settings: DatasetSettings,
    reading: ReadSettings,
) -> Iterator[dict[str, Any]]:
    file, found = shard
    of_key: dict[str, dict[str, Member]] = {}
    last = ""
    for member in found:
        key, extension = key_and_extension(member.name)
        if member.kind == "other":
            continue
        if extension in of_key.get(key, {}) or (key != last and key in of_key):
            raise LabelError(f"image {key} is in {file.uri} twice; give each its own name")
        of_key.setdefault(key, {})[extension] = member
        last = key
    name = file.uri.removeprefix(f"{root}/")
    for key, sample in of_key.items():
        label_map = _first(sample, settings.label_members)
        photo = _first(
            {e: m for e, m in sample.items() if m is not label_map}, reading.image_members
        )
        if photo is None and label_map is None:
            continue  # a note beside the data
        image_id = f"{name}/{key}"
        if label_map is None and settings.skip_unlabelled:
            yield {"image_id": image_id, "image": None, "map": None, "segments": None}
            continue
        if photo is None or label_map is None:
            lacks = "photograph" if photo is None else "label map"
            option = "image_members" if photo is None else "label_members"
            raise LabelError(
                f"image {image_id} has no {lacks} in {file.uri}, only "
                f"{', '.join(member.name for member in sample.values())}; see --{option}"
                + (
                    ""
                    if photo is None
                    else ", or leave out such photographs with --skip_unlabelled"
                )
            )
        for member in (photo, label_map):
            if member.kind != "file":
                raise LabelError(f"image {image_id}: {member.name} in {file.uri} is no whole file")
        segments = sample.get("json")
        yield {
            "image_id": image_id,
            "image": asdict(member_location(file, photo)),
            "map": asdict(member_location(file, label_map)),
            "segments": None if segments is None else asdict(member_location(file, segments)),
        }


def _first(sample: Mapping[str, Member], extensions: Sequence[str]) -> Member | None:
    return next((sample[e.lower()] for e in extensions if e.lower() in sample), None)


def _describes_segments(sample: Mapping[str, Any], *, storage: Storage) -> bool:
    """True if the JSON beside a sample describes segments and is no caption, say."""
    try:
        content = json.loads(DataLocation(**sample["segments"]).read(storage))
    except ValueError:
        return False
    return isinstance(content, dict) and "segments_info" in content
