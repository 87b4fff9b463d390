"""Reads the photographs of a table from their corpus, upright, in the order of the table.

They come from the sources of the plan that labelled them: files ahead in threads, archives and
Parquet files as streams of the parts that units read. A photograph that changed since is left out:
its segments are those of another picture.
"""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.corpora.decoding import ImageError, decode, image_size, orientation
from pipeline.corpora.image_parts import place_below, source_kind, source_name
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.exchange.exporting.survey import known_ending
from pipeline.storage import File, SourceChanged, Storage
from pipeline.storage.uris import LOCAL, local_path, protocol
from pipeline.table.neighbours import grouped
from pipeline.table.plans import plan_numbers, read_plan, runs_in_order
from pipeline.table.scratch import scratch_database
from pipeline.table.store import TableStore
from pipeline.table.units import SOURCE, sources_of

_JPEG_QUALITY = 95
_ENDING_OF_START = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"II+\0", "tif"),
    (b"MM\0+", "tif"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "j2k"),
    (b"BM", "bmp"),
    (b"P", "ppm"),
)


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """The photograph of one image, ready to be written; or the reason why there is none."""

    image_id: str
    ending: str = ""
    """Of its name in the export."""
    data: bytes | None = None
    """Encoded and upright; None where a link leads to the file, or where there is a problem."""
    linked: str | None = None
    """Path of the file on this machine."""
    problem: str | None = None
    """A class of problem, as SourceChanged."""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SourcePhotographs:
    """Reads the photographs of units."""

    storage: Storage
    reading: ReadSettings
    image_root: str | None
    """Where the corpus is now; None where the table says."""
    may_link: bool
    """True if links may lead to upright files of this machine."""

    def of_source(
        self, source: Source, wanted: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[Photograph]:
        """Yields the photographs of a source that are wanted.

        Args:
            wanted: rows of `images` by image_id.

        Raises:
            StorageFault: the storage failed, after retries.
        """
        if source.kind == "file" and source.name not in wanted:
            return
        given: set[str] = set()
        try:
            for image in read_source(
                self._where_it_is_now(source), storage=self.storage, settings=self.reading
            ):
                row = wanted.get(image.image_id)
                if row is not None:
                    given.add(image.image_id)
                    yield self._photograph(image, row)
        except SourceChanged as error:
            for row in wanted.values():
                if row["uri"] == source.uri and row["image_id"] not in given:
                    yield _problem(row, "SourceChanged", str(error))

    def _where_it_is_now(self, source: Source) -> Source:
        if self.image_root is None:
            return source
        uri = place_below(self.storage.absolute(self.image_root), source.name)
        file = self.storage.file(uri)
        if file is None or (source.size and file.size != source.size):
            state = "is not there" if file is None else f"has {file.size} bytes"
            raise SourceChanged(
                f"{uri} {state}; a corpus at --image_root must hold the same files, this one "
                f"with {source.size} bytes"
            )
        return replace(source, uri=uri, etag=file.etag, size=file.size)

    def _photograph(self, image: EncodedImage, row: Mapping[str, Any]) -> Photograph:
        try:
            if image.error is not None:
                raise image.error
            return self._upright(image, row)
        except ImageError as error:
            return _problem(row, error.error_class, error.message)

    def _upright(self, image: EncodedImage, row: Mapping[str, Any]) -> Photograph:
        assert image.data is not None
        bounds: dict[str, Any] = {
            "name": image.name,
            "max_pixels": self.reading.max_image_pixels,
        }
        size = image_size(image.data, **bounds)
        if size != (row["height"], row["width"]):
            found, labelled = (f"{h} x {w}" for h, w in (size, (row["height"], row["width"])))
            message = f"{image.name}: it is {found} now, and was {labelled} when it was labelled"
            return _problem(row, "SizeChanged", message)
        data, extension = image.data, known_ending(row) or ending_by_bytes(image.data)
        if orientation(data, **bounds) != 1:
            is_jpeg = data.startswith(b"\xff\xd8")
            data = _encoded(decode(data, **bounds).image, is_jpeg=is_jpeg)
            extension = "jpg" if is_jpeg else "png"
        elif self.may_link and protocol(image.uri) in LOCAL and _is_whole_file(image):
            linked = local_path(image.uri)
            return Photograph(image_id=row["image_id"], ending=extension, linked=linked)
        return Photograph(image_id=row["image_id"], ending=extension, data=data)


def ending_by_bytes(data: bytes) -> str:
    """Returns the usual ending of files that begin so; `jpg` where it is not known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return "avif"
    return next((name for start, name in _ENDING_OF_START if data.startswith(start)), "jpg")


def sources_by_unit(
    table: TableStore, unit_ids: Sequence[str]
) -> Iterator[tuple[str, list[Source]]]:
    """Yields the planned sources of each unit, in the given order of units.

    Plans hold a row for each file, and are sorted on disk. Of a unit that no plan has the list is
    empty.
    """
    numbers = plan_numbers(table)
    with scratch_database() as database:
        database.run(f"CREATE TABLE sources (unit_id VARCHAR, place BIGINT, {_SOURCE_COLUMNS})")
        place = 0
        for number, run_id in enumerate(runs_in_order(table)):
            for batch in read_plan(table, run_id):
                is_first = [numbers[unit] == number for unit in batch["unit_id"].to_pylist()]
                rows = pa.Table.from_batches([batch.filter(pa.array(is_first, pa.bool_()))])
                if "again" not in rows.schema.names:
                    rows = rows.append_column("again", pa.repeat(pa.scalar(0), len(rows)))
                places = pa.array(range(place, place + len(rows)), pa.int64())
                columns = ["unit_id", *SOURCE.names]
                database.insert("sources", rows.select(columns).append_column("place", places))
                place += len(rows)
        order = pa.table(
            {"unit_id": list(unit_ids), "number": range(len(unit_ids))},
            schema=pa.schema([("unit_id", pa.string()), ("number", pa.int64())]),
        )
        with database.view("units", order):
            database.run("CREATE TABLE wanted AS SELECT * FROM units")
        found = grouped(database.batches(_IN_ORDER), "unit_id")
        waiting = next(found, None)
        for unit_id in unit_ids:
            sources: list[Source] = []
            if waiting is not None and waiting[0] == unit_id:
                sources, waiting = sources_of(waiting[1]), next(found, None)
            yield unit_id, sources


def sources_of_rows(rows: Iterable[Mapping[str, Any]], *, storage: Storage) -> list[Source]:
    """Returns the sources of rows of `images` whose unit stands in no plan."""
    by_uri: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        by_uri[row["uri"], row["etag"] or ""].append(row["image_id"])
    sources = []
    for (uri, etag), image_ids in by_uri.items():
        kind, first = source_kind(uri), image_ids[0]
        file: File | None = storage.file(uri)
        sources.append(
            Source(
                uri=uri,
                name=first if kind == "file" else source_name(uri, image_id=first),
                kind=kind,
                etag=etag,
                size=file.size if file else 0,
            )
        )
    return sources


_SOURCE_COLUMNS = ", ".join(
    f"{field.name} {'VARCHAR' if pa.types.is_string(field.type) else 'BIGINT'}" for field in SOURCE
)
_IN_ORDER = """
    SELECT * EXCLUDE (number, place) FROM sources JOIN wanted USING (unit_id)
    ORDER BY number, place
"""


def _is_whole_file(image: EncodedImage) -> bool:
    return image.member is None and image.row is None


def _problem(row: Mapping[str, Any], kind: str, message: str) -> Photograph:
    return Photograph(image_id=row["image_id"], problem=kind, message=message)


def _encoded(image: Image.Image, *, is_jpeg: bool) -> bytes:
    buffer = io.BytesIO()
    if is_jpeg:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()
