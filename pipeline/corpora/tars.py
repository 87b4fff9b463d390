"""Tars: an archive, or a slice of one, to the encoded images in it.

Takes the samples of `samples.py` and, behind them, the files to which links among them lead
(`links.py`); `reading.py` gives on what comes out.
"""

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.corpora.archives import ArchiveDamage, Member
from pipeline.corpora.decoding import ImageError, what_it_looks_like
from pipeline.corpora.encoded import (
    EncodedImage,
    ReadSettings,
    encoded_image,
    failed_source,
    too_large,
)
from pipeline.corpora.links import Linked, linked_files
from pipeline.corpora.samples import CountSkipped, Sample, samples
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import EMPTY_ARCHIVE, SkipCounts
from pipeline.storage import Storage


def read_tar(
    source: Source,
    *,
    storage: Storage,
    settings: ReadSettings,
    skipped: SkipCounts,
) -> Iterator[EncodedImage]:
    """The images of the archive; where it has none, an error that says so."""
    others: list[str] = []
    count = 0

    def count_skipped(name: str, *, reason: str) -> None:
        if not others:
            others.append(name)
        skipped.add(_place(source, name), reason=reason)

    with storage.open(source.uri, etag=source.etag, size=source.size) as file:
        try:
            for image in _images(
                source,
                file,
                settings=settings,
                count_skipped=count_skipped,
            ):
                yield image
                count += 1
        except ArchiveDamage as damage:
            yield _damaged_archive(source, damage, storage=storage)
            return
    if count or source.start or source.stop is not None:
        return
    if others:
        yield failed_source(
            source,
            "NoImageMember",
            f"none of its members is an image, the first is {others[0]!r}; see --image_members",
        )
    else:
        skipped.add(source.uri, reason=EMPTY_ARCHIVE)


def _images(
    source: Source,
    file: BinaryIO,
    *,
    settings: ReadSettings,
    count_skipped: CountSkipped,
) -> Iterator[EncodedImage]:
    links: dict[Member, str] = {}  # with the keys of their samples
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
    source: Source, sample: Sample, image: Member, *, settings: ReadSettings
) -> EncodedImage:
    image_id = f"{source.name}/{sample.key}"
    where = _place(source, image.name)
    if not sample.is_repeated:
        error = _why_without_data(image, sample.data, where=where, settings=settings)
    else:
        # The id is the first one's; the row that says so needs another.
        image_id = f"{image_id}@{sample.offset}"
        error = ImageError(
            "DuplicateKey",
            f"{where}: the archive holds an earlier image named {sample.key!r}; give each its own "
            "name up to the extension",
        )
    data = sample.data if error is None else None
    return encoded_image(source, image_id=image_id, member=image.name, data=data, error=error)


def _linked_image(
    source: Source, linked: Linked, *, key: str, settings: ReadSettings
) -> EncodedImage:
    link, target = linked.link, linked.target
    where = _place(source, link.name)
    if target is None:
        error: ImageError | None = ImageError(
            "NotFound",
            f"{where}: it is a {link.kind} to {link.target!r}, and the archive has no such file",
        )
    else:
        where = f"{where}, a {link.kind} to {target.name}"
        error = _why_without_data(target, linked.data, where=where, settings=settings)
    return encoded_image(
        source,
        image_id=f"{source.name}/{key}",
        member=link.name,
        data=linked.data,
        error=error,
    )


def _why_without_data(
    member: Member, data: bytes | None, *, where: str, settings: ReadSettings
) -> ImageError | None:
    if data is not None:
        return None
    if member.kind == "partial":
        return ImageError("PartialMember", f"{where}: it is not stored whole (sparse or split)")
    if member.size > settings.max_image_bytes:
        return ImageError("TooLarge", f"{where}: {too_large(member.size, settings=settings)}")
    return ImageError("TruncatedArchive", f"{where}: the archive is cut or damaged in its data")


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


def _place(source: Source, name: str) -> str:
    """Where a member lies, for messages."""
    return f"{source.uri}, member {name}"
