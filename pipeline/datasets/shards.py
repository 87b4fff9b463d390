"""Tar shards, as WebDataset has them: a photograph and a map with one name, side by side.

`KEY.jpg` with `KEY.png` is a label map. With a `KEY.json` that has `segments_info`, a list of
`{"id", "label_id", "iscrowd"}` (or `category_id`, the label's value in labels.json), the PNG holds
segment ids, in grey or as COCO spreads them. Where members lie is found from the headers, once, so
that each is read by itself.
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
from pipeline.datasets.data_location import LOCATION, DataLocation
from pipeline.datasets.dataset import LabelledImages, Truth, rows_schema, where
from pipeline.datasets.label_maps import LabelMapTruth, left_out
from pipeline.datasets.label_names import KnownNames, label_names
from pipeline.datasets.maps import decode_id_map
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import Described, LabelError, Labels, Target, id_map_target
from pipeline.runtime.threads import map_ahead
from pipeline.storage import File, Storage

_SCHEMA = rows_schema(("map", LOCATION), ("segments", LOCATION))
_SHARDS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class ShardIdMapTruth:
    """A map of segment ids for each image, and beside it a JSON that says what they are."""

    label_values: tuple[int, ...] | None = None
    """What the JSON calls each label, by its id; None where by the id."""

    def target(self, row: Mapping[str, Any], *, labels: Labels, storage: Storage) -> Target:
        place = DataLocation(**row["map"])
        name = where(row, place)
        said = DataLocation(**row["segments"])
        described = described_segments(
            said.read(storage), label_values=self.label_values, place=where(row, said)
        )
        known = {segment.id for segment in described}
        ids = decode_id_map(place.read(storage), place=name, described=known)
        return id_map_target(ids, described, labels=labels, place=name)


def open_shards(
    settings: DatasetSettings, *, storage: Storage, reading: ReadSettings, known: KnownNames
) -> LabelledImages:
    """The samples of a tar, or of all tars below a prefix, in the order in which they lie there.

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
    unlabelled = [sample["image_id"] for sample in samples if sample["map"] is None]
    samples = [sample for sample in samples if sample["map"] is not None]
    if not samples:
        raise LabelError(f"{settings.dataset} holds no photograph with a label map")
    truth: Truth = LabelMapTruth(values=named.values)
    has_segments = [sample["segments"] is not None for sample in samples]
    if has_segments[0] and _describes_segments(samples[0], storage=storage):
        if not all(has_segments):
            bare = samples[has_segments.index(False)]
            raise LabelError(
                f"image {bare['image_id']} has no .json with segments_info, and others have; "
                "a data set has label maps or segments, not both"
            )
        settings.refuse("ignore_index", "reduce_labels", because="maps of segment ids")
        truth = ShardIdMapTruth(label_values=named.values.values)
    return LabelledImages(
        uri=storage.absolute(settings.dataset),
        kind="webdataset",
        truths="segments" if isinstance(truth, ShardIdMapTruth) else "labels",
        labels=named.labels,
        rows=pa.Table.from_pylist(samples, schema=_SCHEMA),
        truth=truth,
        storage=storage,
        reading=reading,
        values=named.values if isinstance(truth, LabelMapTruth) else None,
        notes=(*(named.notes if isinstance(truth, LabelMapTruth) else ()), *left_out(unlabelled)),
    )


def data_files(
    settings: DatasetSettings, *, endings: Sequence[str], storage: Storage
) -> tuple[str, list[File]]:
    """The folder of the data set, and its files with these endings, or those that match the
    pattern in its last name: train-*.tar."""
    place = storage.absolute(settings.dataset)
    folder, _, name = place.rpartition("/")
    if "*" in name:
        beside = [f for f in storage.files(folder) if f.uri.rpartition("/")[0] == folder]
        return folder, [f for f in beside if fnmatchcase(f.uri.rpartition("/")[2], name)]
    single = storage.file(place)
    if single is not None:
        return place.rpartition("/")[0], [single]
    dotted = tuple(f".{ending}" for ending in endings)
    return place, [f for f in storage.files(place) if f.uri.lower().endswith(dotted)]


def shard_members(
    files: Sequence[File], *, storage: Storage
) -> Iterator[tuple[File, list[Member]]]:
    """Each tar with its members, from the headers alone.

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
    """Where a member's bytes lie."""
    return DataLocation(
        uri=file.uri,
        etag=file.etag,
        size=file.size,
        member=member.name,
        start=member.data_offset,
        stop=member.data_offset + member.size,
    )


def described_segments(
    data: bytes, *, label_values: Sequence[int] | None, place: str
) -> list[Described]:
    """What a JSON with `segments_info` says.

    Args:
        label_values: what it calls each label, by its id; None where by the id.

    Raises:
        LabelError: it says something else.
    """
    try:
        return [
            Described(
                id=_whole(each["id"]),
                label_id=_label_id(each, label_values=label_values, place=place),
                is_crowd=_flag(each.get("iscrowd")),
            )
            for each in json.loads(data)["segments_info"]
        ]
    except LabelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabelError(
            f'{place}: segments must be {{"segments_info": [{{"id": 1, "label_id": 0}}, ...]}}, '
            f"got {data[:60]!r}"
        ) from error


def _label_id(each: Mapping[str, Any], *, label_values: Sequence[int] | None, place: str) -> int:
    given = _whole(each["label_id"] if "label_id" in each else each["category_id"])
    if label_values is None:
        return given
    if given not in label_values:
        raise LabelError(
            f"{place}: segment {each['id']} has label {given}, which is none of the values of "
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
                + ("" if photo is None else " or --skip_unlabelled")
            )
        for member in (photo, label_map):
            if member.kind != "file":
                raise LabelError(f"image {image_id}: {member.name} in {file.uri} is no whole file")
        said = sample.get("json")
        yield {
            "image_id": image_id,
            "image": asdict(member_location(file, photo)),
            "map": asdict(member_location(file, label_map)),
            "segments": None if said is None else asdict(member_location(file, said)),
        }


def _first(sample: Mapping[str, Member], extensions: Sequence[str]) -> Member | None:
    return next((sample[e.lower()] for e in extensions if e.lower() in sample), None)


def _describes_segments(sample: Mapping[str, Any], *, storage: Storage) -> bool:
    """Whether the JSON beside a sample is about segments: WebDataset has captions there too."""
    try:
        said = json.loads(DataLocation(**sample["segments"]).read(storage))
    except ValueError:
        return False
    return isinstance(said, dict) and "segments_info" in said
