"""Cuts large sources into slices, and a corpus to its first images.

It opens only sources that must be cut, and reads only headers and footers of those.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.compressed import compression_of
from pipeline.corpora.parquet_images import RowGroups, parquet_groups
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.samples import ArchiveSample, sample_offsets
from pipeline.corpora.sources import Source
from pipeline.storage import Storage


@dataclass(frozen=True)
class _Piece:
    """The smallest part of a source that can be cut off: a tar's sample, a Parquet row group."""

    start: int
    num_images: int
    num_bytes: int
    is_counted: bool = True
    """False if `num_images` counts rows that hold several images each."""


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Opens sources to find where they may be cut."""

    storage: Storage
    reading: ReadSettings

    def slices(self, source: Source, *, max_images: int, max_bytes: int) -> Iterator[Source]:
        """Yields the source whole, or in slices within the bounds if it can be cut.

        Opens a tar only if its bytes exceed the bound: the number of its images is unknown without
        reading it.
        """
        is_small = source.kind == "tar" and source.num_bytes <= max_bytes
        if source.kind == "file" or is_small or not source.etag:  # a source without etag is absent
            yield source
            return
        pieces = self._pieces(source)
        is_counted = all(piece.is_counted for piece in pieces)
        images = num_bytes = 0
        start = source.start
        for piece in pieces:
            full = images + piece.num_images > max_images or num_bytes + piece.num_bytes > max_bytes
            if full and piece.start > start:
                count = images if is_counted else None
                yield source.sliced(start=start, stop=piece.start, num_images=count)
                start, images, num_bytes = piece.start, 0, 0
            images, num_bytes = images + piece.num_images, num_bytes + piece.num_bytes
        count = images if is_counted and pieces else None
        yield source.sliced(start=start, stop=source.stop, num_images=count)

    def first_images(
        self, sources: Iterable[Source], *, limit: int, known: dict[tuple[str, str, int], Source]
    ) -> Iterator[Source]:
        """Yields the first sources that hold `limit` images together; cuts the last one to fit.

        Args:
            known: slices of earlier plans by uri, etag and start, which need not be opened again.
        """
        left = limit
        for source in sources:
            while left > 0:
                there = known.get((source.uri, source.etag, source.start))
                fits = there is not None and 0 < (there.num_images or 0) <= left
                first = _First(there) if there is not None and fits else None
                first = first or self._up_to(source, images=left)
                yield first.piece
                left -= first.num_images
                if first.piece.stop is None:
                    break
                source = source.sliced(start=first.piece.stop, stop=source.stop)
            if left <= 0:
                return

    def _up_to(self, source: Source, *, images: int) -> "_First":
        """Cuts the source after this many images."""
        if source.kind == "file" or not source.etag:
            return _First(dataclasses.replace(source, num_images=1))
        with self._open(source) as file:
            if source.kind == "parquet":
                groups = parquet_groups(file, settings=self.reading)
                rows = sum(piece.num_images for piece in _row_groups(source, groups))
                if rows <= images:
                    return _First(dataclasses.replace(source, num_images=rows), groups.has_lists)
                stop = source.start + images
                piece = source.sliced(start=source.start, stop=stop, num_images=images)
                return _First(piece, groups.has_lists)
            count = 0
            # Damage stays in the last slice, where reading reports it.
            with contextlib.suppress(ArchiveDamage):
                for sample in self._samples(source, file):
                    if count == images:
                        stop = sample.offset
                        piece = source.sliced(start=source.start, stop=stop, num_images=count)
                        return _First(piece)
                    count += sample.image is not None
            return _First(dataclasses.replace(source, num_images=count))

    def around(self, source: Source, *, members: Collection[str]) -> Iterator[Source]:
        """Yields slices of an archive with these images; the whole archive if it cannot be cut."""
        samples: list[ArchiveSample] = []
        if source.kind == "tar":
            with self._open(source) as file:
                samples = self._cuttable(source, file)
        if not samples:
            yield source
            return
        stops = [*(sample.offset for sample in samples[1:]), source.stop]
        for sample, stop in zip(samples, stops, strict=True):
            if sample.image is not None and sample.image.name in members:
                yield source.sliced(start=sample.offset, stop=stop, num_images=1)

    def _pieces(self, source: Source) -> list[_Piece]:
        """Returns the pieces of a source, in order; none if it must stay whole."""
        with self._open(source) as file:
            if source.kind == "parquet":
                return _row_groups(source, parquet_groups(file, settings=self.reading))
            samples = self._cuttable(source, file)
        if not samples:
            return []
        ends = [sample.offset for sample in samples[1:]] + [source.stop or source.size]
        return [
            _Piece(sample.offset, int(sample.image is not None), end - sample.offset)
            for sample, end in zip(samples, ends, strict=True)
        ]

    def _cuttable(self, source: Source, file: BinaryIO) -> list[ArchiveSample]:
        """Returns the samples of a tar; none if it must stay whole."""
        if compression_of(file.read(8)) is not None:
            return []  # each slice would be unpacked from the beginning
        samples = []
        with contextlib.suppress(ArchiveDamage):
            for sample in self._samples(source, file):
                if sample.is_repeated:
                    return []  # only a reader of the whole archive sees repeated keys
                samples.append(sample)
        # A tar without any image is read whole, so that reading reports it.
        return samples if any(sample.image is not None for sample in samples) else []

    def _samples(self, source: Source, file: BinaryIO) -> Iterator[ArchiveSample]:
        names = self.reading.image_members
        return sample_offsets(file, image_members=names, start=source.start, stop=source.stop)

    def _open(self, source: Source) -> BinaryIO:
        return self.storage.open(source.uri, etag=source.etag, size=source.size)


class _First:
    """The beginning of a source; a row with a list of images counts as one."""

    def __init__(self, piece: Source, has_lists: bool = False) -> None:
        self.num_images = piece.num_images or 0
        self.piece = dataclasses.replace(piece, num_images=None) if has_lists else piece


def _row_groups(source: Source, groups: RowGroups) -> list[_Piece]:
    """Returns the row groups, or parts of them, that lie in the source."""
    pieces, row = [], 0
    for rows, num_bytes in groups.rows_and_bytes:
        start, stop = max(row, source.start), row + rows
        if source.stop is not None:
            stop = min(stop, source.stop)
        if start < stop:
            pieces.append(_Piece(start, stop - start, num_bytes, not groups.has_lists))
        row += rows
    return pieces
