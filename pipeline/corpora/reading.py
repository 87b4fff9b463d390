"""Reads a source to the encoded images in it, one at a time.

Takes a `Source` of the plan; `decoding.py` takes the bytes of the images. A fault of a source's
content (an archive cut short, a row without bytes) is an image with an error in place of data, so
that it gets a row in the table. `StorageFault` and `SourceChanged` pass through: they say nothing
about any image.

Besides those of `decoding.py`, errors have these classes:

| class | what was found |
|---|---|
| NotFound | no object where one was when the corpus was listed, or where a tar's link leads |
| BadLocation | a row of a manifest without a location, or one that no storage can have |
| UnsupportedFormat | a format that is not read, by its ending, as a camera's raw file |
| TooLarge | more bytes than `max_image_bytes` |
| TruncatedArchive | a tar that ends too early; the images before are kept |
| DamagedArchive | a tar with a wrong header or compressed stream; the images before are kept |
| NoImageMember | a tar without any image among its members |
| PartialMember | a member of a tar that is stored as a sparse file, or over several volumes |
| DuplicateKey | a second image with the name of an earlier one in the same archive or file |
| EmptyFile | a row without bytes, whose path leads nowhere either |
| DamagedParquet | a Parquet file that cannot be read; the rows before are kept |
| NoImageColumn | a Parquet file without the column of images that is asked for |
| NoKeyColumn | a Parquet file without the column of ids that is asked for |
"""

from collections.abc import Iterator

from pipeline.corpora.encoded import (
    EncodedImage,
    ReadSettings,
    encoded_image,
    failed_source,
    too_large,
)
from pipeline.corpora.manifests import absence
from pipeline.corpora.parquet_images import read_parquet_images
from pipeline.corpora.sources import Source
from pipeline.corpora.tars import read_tar
from pipeline.runtime.skips import SkipCounts
from pipeline.storage import Storage, StorageFault

__all__ = ["EncodedImage", "ReadSettings", "read_source"]


def read_source(
    source: Source,
    *,
    storage: Storage,
    settings: ReadSettings,
    skipped: SkipCounts | None = None,
) -> Iterator[EncodedImage]:
    """Yields the images of a source or a slice, in their order there.

    The same source gives the same images whenever it is read. One image is in memory at a time, of
    a Parquet file a few.

    Args:
        skipped: counts members of archives that could be images and are none, slices of archives
            without images, and rows with empty lists of images.

    Raises:
        StorageFault, SourceChanged: as soon as they occur; images before remain valid.
    """
    skipped = SkipCounts() if skipped is None else skipped
    if not source.etag:  # absent when the plan was made, whatever exists now
        yield _absent(source)
        return
    try:
        if source.kind == "file":
            yield _read_file(source, storage=storage, settings=settings)
        elif source.kind == "tar":
            yield from read_tar(source, storage=storage, settings=settings, skipped=skipped)
        else:
            yield from read_parquet_images(
                source, storage=storage, settings=settings, skipped=skipped
            )
    except FileNotFoundError:
        yield _absent(source)
    except OSError as error:
        raise StorageFault(f"read {source.uri}: {error}") from error


def _read_file(source: Source, *, storage: Storage, settings: ReadSettings) -> EncodedImage:
    if source.size > settings.max_image_bytes:
        return failed_source(source, "TooLarge", too_large(source.size, settings=settings))
    # Some servers do not say how large it is.
    data = storage.read(source.uri, etag=source.etag, most=settings.max_image_bytes + 1)
    if len(data) > settings.max_image_bytes:
        return failed_source(source, "TooLarge", too_large(len(data), settings=settings))
    return encoded_image(source, image_id=source.name, data=data)


def _absent(source: Source) -> EncodedImage:
    why = absence(source.uri)
    return failed_source(source, why.error_class, why.message)
