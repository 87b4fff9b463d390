"""Reads a tar, or a slice of one, to the encoded images in it.

Takes the samples of `samples.py` and, after them, the targets of links among them (`links.py`);
`reading.py` passes the images on.
"""

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.corpora.archives import ArchiveDamage, Member
from pipeline.corpora.decoding import ImageError, guess_content
from pipeline.corpora.encoded import (
    EncodedImage,
    ReadSettings,
    encoded_image,
    failed_source,
    too_large,
)
from pipeline.corpora.links import Linked, linked_files
from pipeline.corpora.samples import ArchiveSample, CountSkipped, samples
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import EMPTY_ARCHIVE, PART_WITHOUT_IMAGES, SkipCounts
from pipeline.storage import Storage


def read_tar(
    source: Source, *, storage: Storage, settings: ReadSettings, skipped: SkipCounts
) -> Iterator[EncodedImage]:
    """Yields the images of the archive, or an error where a whole one has none."""
    first_skipped: str | None = None
    has_images = False

    def count_skipped(name: str, *, reason: str) -> None:
        nonlocal first_skipped
        first_skipped = first_skipped or name
        skipped.add(_location(source, name), reason=reason)

    with storage.open(source.uri, etag=source.etag, size=source.size) as file:
        try:
            for image in _images(source, file, settings=settings, count_skipped=count_skipped):
                yield image
                has_images = True
        except ArchiveDamage as damage:
            yield _damaged_archive(source, damage, storage=storage)
            return
    if has_images:
        return
    if source.start or source.stop is not None:
        end = "the end" if source.stop is None else f"byte {source.stop}"
        location = f"{source.uri}, from byte {source.start} to {end}"
        skipped.add(location, reason=PART_WITHOUT_IMAGES)
    elif first_skipped is not None:
        yield failed_source(
            source,
            "NoImageMember",
            f"none of its members is an image, the first is {first_skipped!r}; see --image_members",
        )
    else:
        skipped.add(source.uri, reason=EMPTY_ARCHIVE)


def _images(
    source: Source, file: BinaryIO, *, settings: ReadSettings, count_skipped: CountSkipped
) -> Iterator[EncodedImage]:
    links: dict[Member, str] = {}  # values are the keys of their samples
    damage: ArchiveDamage | None = None
    try:
        for sample in samples(
            file,
            image_members=settings.image_members,
            max_image_bytes=settings.max_image_bytes,
            start=source.start,
            stop=source.stop,
            count_skipped=count_skipped,
        ):
            if sample.image is None:
                continue
            if sample.image.is_link and not sample.is_repeated:
                links[sample.image] = sample.key
            else:
                yield _image(source, sample, sample.image, settings=settings)
    except ArchiveDamage as error:
        damage = error
    if links:
        for linked in linked_files(file, list(links), max_image_bytes=settings.max_image_bytes):
            yield _linked_image(source, linked, key=links[linked.link], settings=settings)
    if damage is not None:
        raise damage


def _image(
    source: Source, sample: ArchiveSample, image: Member, *, settings: ReadSettings
) -> EncodedImage:
    image_id = f"{source.name}/{sample.key}"
    location = _location(source, image.name)
    if not sample.is_repeated:
        error = _why_without_data(image, sample.data, location=location, settings=settings)
    else:
        # The first image has that id; the row with the error needs another.
        image_id = f"{image_id}@{sample.offset}"
        error = ImageError(
            "DuplicateKey",
            f"{location}: the archive holds an earlier image named {sample.key!r}; give each its "
            "own name up to the extension",
        )
    data = sample.data if error is None else None
    return encoded_image(source, image_id=image_id, member=image.name, data=data, error=error)


def _linked_image(
    source: Source, linked: Linked, *, key: str, settings: ReadSettings
) -> EncodedImage:
    link, target = linked.link, linked.target
    location = _location(source, link.name)
    if target is None:
        error: ImageError | None = ImageError(
            "NotFound",
            f"{location}: it is a {link.kind} to {link.target!r}, and the archive has no such file",
        )
    else:
        location = f"{location}, a {link.kind} to {target.name}"
        error = _why_without_data(target, linked.data, location=location, settings=settings)
    image_id = f"{source.name}/{key}"
    return encoded_image(source, image_id=image_id, member=link.name, data=linked.data, error=error)


def _why_without_data(
    member: Member, data: bytes | None, *, location: str, settings: ReadSettings
) -> ImageError | None:
    if data is not None:
        return None
    if member.kind == "partial":
        return ImageError("PartialMember", f"{location}: it is not stored whole (sparse or split)")
    if member.size > settings.max_image_bytes:
        return ImageError("TooLarge", f"{location}: {too_large(member.size, settings=settings)}")
    return ImageError("TruncatedArchive", f"{location}: the archive is cut or damaged in its data")


def _damaged_archive(source: Source, damage: ArchiveDamage, *, storage: Storage) -> EncodedImage:
    hint = ""
    if damage.offset == 0:
        head = storage.read(source.uri, etag=source.etag, stop=min(source.size, 512))
        hint = guess_content(head)
    error = ImageError(
        "TruncatedArchive" if damage.truncated else "DamagedArchive",
        f"{source.uri}: {damage.message}{hint}; the images before byte {damage.offset} were read",
    )
    return encoded_image(source, image_id=f"{source.name}@{damage.offset}", data=None, error=error)


def _location(source: Source, name: str) -> str:
    """Returns a member's location, for messages."""
    return f"{source.uri}, member {name}"
