"""Defines units of work: sources that are read, segmented and committed together.

`planner.py` makes units, `plans.py` writes and reads them, `labelling` works on them.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import overload

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.corpora.sources import Source
from pipeline.table.store import TableSpec

SOURCE = pa.schema(
    [
        ("uri", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("num_images", pa.int64()),
        ("again", pa.int64()),
    ]
)
"""The fields of a `Source`, as columns."""

PLAN = pa.schema(
    [("unit_index", pa.int64()), ("unit_id", pa.string()), ("plan_number", pa.int64()), *SOURCE]
)
"""The columns of a plan: one row per source, in the order of units and of their sources."""

_USUAL_IMAGE_BYTES = 100_000
"""Encoded bytes of a usual photograph."""

_values = attrgetter(*SOURCE.names)
_PACKING = pa.ipc.IpcWriteOptions(compression="zstd")


class PackedSources(Sequence[Source]):
    """Compressed sources, in a tenth of the memory of objects: a plan may hold millions."""

    def __init__(self, sources: Iterable[Source]) -> None:
        objects = list(sources)
        counts = [source.num_images for source in objects]
        self.num_images = None if None in counts else sum(count or 0 for count in counts)
        self.num_bytes = sum(source.num_bytes for source in objects)
        self._length = len(objects)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SOURCE, options=_PACKING) as writer:
            writer.write_table(source_table(objects))
        self._packed = sink.getvalue().to_pybytes()

    def table(self) -> pa.Table:
        """Returns the sources as rows with the columns `SOURCE`."""
        with pa.ipc.open_stream(self._packed) as reader:
            return reader.read_all()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Source]:
        return iter(sources_of(self.table()))

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, index: int | slice) -> Source | tuple[Source, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Sources that are read, segmented and committed together."""

    unit_id: str
    sources: Sequence[Source]
    plan_number: int = field(default=0, compare=False)
    """Number of the plan that it came with; the later of two plans has an image's latest rows."""

    def __post_init__(self) -> None:
        if not isinstance(self.sources, PackedSources):
            object.__setattr__(self, "sources", PackedSources(self.sources))

    @property
    def num_images(self) -> int | None:
        """Returns the number of images; None if only reading can tell."""
        return self._packed.num_images

    @property
    def num_bytes(self) -> int:
        return self._packed.num_bytes

    @property
    def about_images(self) -> int:
        """Returns the number of images, estimated from the bytes where it is not known."""
        return self.num_images or self.num_bytes // _USUAL_IMAGE_BYTES

    def table(self, *, index: int = 0) -> pa.Table:
        """Returns the rows of a plan with the columns `PLAN`."""
        sources = self._packed.table()
        own = {"unit_index": index, "unit_id": self.unit_id, "plan_number": self.plan_number}
        columns = [pa.repeat(pa.scalar(own[n], PLAN.field(n).type), len(sources)) for n in own]
        return pa.Table.from_arrays([*columns, *sources.columns], schema=PLAN)

    @property
    def _packed(self) -> PackedSources:
        assert isinstance(self.sources, PackedSources)
        return self.sources


def unit_id(sources: Iterable[Source], *, spec: TableSpec) -> str:
    """Returns the name of a unit, a hash of its sources and of the table's spec."""
    digest = hashlib.sha256(spec.fingerprint.encode())
    for source in sources:
        parts = [source.uri, source.etag, str(source.start), str(source.stop)]
        if source.again:
            parts.append(str(source.again))
        digest.update("\0".join(parts).encode() + b"\1")
    return digest.hexdigest()[:24]


def source_table(sources: Sequence[Source]) -> pa.Table:
    """Returns sources as rows with the columns `SOURCE`."""
    columns = zip(*map(_values, sources), strict=True) if sources else [()] * len(SOURCE)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SOURCE, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SOURCE)


def sources_of(table: pa.Table | pa.RecordBatch) -> list[Source]:
    """Returns the sources in rows with the columns `SOURCE`, and maybe others."""
    # Plans of earlier versions lack `again`.
    names = [name for name in SOURCE.names if name in table.schema.names]
    return [Source(**row) for row in table.select(names).to_pylist()]


def given_names(rows: pa.Table | pa.RecordBatch, *, root: str) -> pa.Array:
    """Returns, for each row, True if the name does not follow from the location below the root."""
    by_path = pc.binary_join_element_wise(root.rstrip("/"), rows["name"], "/")
    is_own = pc.or_(pc.equal(rows["uri"], by_path), pc.equal(rows["uri"], rows["name"]))
    return pc.invert(is_own)


assert [f.name for f in dataclasses.fields(Source)] == SOURCE.names
