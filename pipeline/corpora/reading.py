"""Reading: a source to the encoded images in it, one at a time.

Takes a `Source` of the plan; `decoding.py` takes the bytes of what comes out. What is wrong with a
source's content (an archive cut short, a row without bytes) is an image with an error in place of
data, so that it gets a row in the table. `StorageFault` and `SourceChanged` pass through untouched:
they say nothing about any image.

Besides those of `decoding.py`, errors have these classes:

| class | what was found |
|---|---|
| NotFound | no object at the location when the corpus was listed |
| BadLocation | a row of a manifest without a location, or one that no storage can have |
| TooLarge | more bytes than `max_image_bytes` |
| TruncatedArchive | a tar that ends too early; the images before are kept |
| DamagedArchive | a tar with a wrong header or compressed stream; the images before are kept |
| PartialMember | a member of a tar that is stored as a sparse file, or over several volumes |
| DuplicateKey | a second image with the name of an earlier one in the same archive or file |
| EmptyFile | a row without bytes, whose path leads nowhere either |
| DamagedParquet | a Parquet file that cannot be read; the rows before are kept |
| NoImageColumn | a Parquet file without the column of images that is asked for |
| NoKeyColumn | a Parquet file without the column of ids that is asked for |
"""

from collections.abc import Callable, Iterator

from pipeline.corpora.archives import ArchiveDamage, Member, Sample, samples
from pipeline.corpora.decoding import ImageError, what_it_looks_like
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
from pipeline.storage import Storage, StorageFault

__all__ = ["EncodedImage", "ReadSettings", "read_source"]

_NOT_THERE = "there was no such object when the corpus was listed"


def read_source(
    source: Source,
    *,
    storage: Storage,
    settings: ReadSettings,
    passed_over: Callable[[str], None] = lambda key: None,
) -> Iterator[EncodedImage]:
    """The images of a source, or of the slice that it is, in the order in which they lie there.

    The same source gives the same images whenever it is read. One image is in memory at a time, of
    a Parquet file a few.

    Args:
        passed_over: called with each key of an archive, and each row of lists, that has no image.

    Raises:
        StorageFault, SourceChanged: as soon as they occur; what came before still holds.
    """
    if not source.etag:  # it was not there when the plan was made; what is there now is no matter
        absent = absence(source.uri)
        yield failed_source(source, absent.error_class, absent.message)
        return
    try:
        if source.kind == "file":
            yield _read_file(source, storage=storage, settings=settings)
        elif source.kind == "tar":
            yield from _read_tar(
                source, storage=storage, settings=settings, passed_over=passed_over
            )
        else:
            yield from read_parquet_images(
                source, storage=storage, settings=settings, passed_over=passed_over
            )
    except FileNotFoundError:
        absent = absence(source.uri)
        yield failed_source(source, absent.error_class, absent.message)
    except OSError as error:
        raise StorageFault(f"read {source.uri}: {error}") from error


def _read_file(source: Source, *, storage: Storage, settings: ReadSettings) -> EncodedImage:
    if source.size > settings.max_image_bytes:
        return failed_source(source, "TooLarge", too_large(source.size, settings=settings))
    data = storage.read(source.uri, etag=source.etag)
    return encoded_image(source, image_id=source.name, data=data)


def _read_tar(
    source: Source,
    *,
    storage: Storage,
    settings: ReadSettings,
    passed_over: Callable[[str], None],
) -> Iterator[EncodedImage]:
    with storage.open(source.uri, etag=source.etag, size=source.size) as file:
        found = samples(
            file,
            image_members=settings.image_members,
            max_image_bytes=settings.max_image_bytes,
            start=source.start,
            stop=source.stop,
        )
        try:
            for sample in found:
                if sample.image is None:
                    passed_over(f"{source.name}/{sample.key}")
                else:
                    yield _sample_image(source, sample, sample.image, settings=settings)
        except ArchiveDamage as damage:
            yield _damaged_archive(source, damage, storage=storage)


def _sample_image(
    source: Source, sample: Sample, image: Member, *, settings: ReadSettings
) -> EncodedImage:
    image_id = f"{source.name}/{sample.key}"
    place = f"{source.uri}, member {image.name}"
    error = None
    if sample.is_repeated:
        # The id is the first one's; the row that says so needs another.
        image_id = f"{image_id}@{sample.offset}"
        error = ImageError(
            "DuplicateKey",
            f"{place}: the archive holds an earlier image named {sample.key!r}; give each its own "
            "name up to the first dot",
        )
    elif image.kind == "partial":
        error = ImageError("PartialMember", f"{place}: it is not stored whole (sparse or split)")
    elif sample.data is None:
        error = ImageError("TooLarge", f"{place}: {too_large(image.size, settings=settings)}")
    data = sample.data if error is None else None
    return encoded_image(source, image_id=image_id, member=image.name, data=data, error=error)


def _damaged_archive(source: Source, damage: ArchiveDamage, *, storage: Storage) -> EncodedImage:
    hint = ""
    if damage.offset == 0:
        head = storage.read(source.uri, etag=source.etag, stop=min(source.size, 512))
        hint = what_it_looks_like(head)
    error = ImageError(
        "TruncatedArchive" if damage.truncated else "DamagedArchive",
        f"{source.uri}: {damage.message}{hint}; the images before byte {damage.offset} were read",
    )
    return encoded_image(source, image_id=f"{source.name}@{damage.offset}", data=None, error=error)
