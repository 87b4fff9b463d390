"""Finds the images among the members of an archive, and their names.

Takes the members of `archives.py`; `splitting.py` cuts archives by `sample_offsets`, `tars.py`
reads the images of `samples`. WebDataset stores the files of a sample in a row, under one name up
to the first dot: `x.jpg`, `x.cls`, `x.seg.png`. Photographs have dots in their names too. So:

- The extension follows the last dot, and includes words before it, as in `x.seg.png`. A part that
  is no word belongs to the name: `22.05.jpg`, `IMG_1.v2.jpg`, `Screenshot 10.15.22.png`. A word
  begins with a letter or `_` and continues with these and digits; `v2` is none.
- Beside an image `x.jpg`, `x.png` and `x.seg.png` are counted, and not read.
- Without `x.jpg`, `x.left.jpg` and `x.right.jpg` are two images, named up to their last dots.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

from pipeline.corpora.archives import ArchiveDamage, Member, Tape, read_members
from pipeline.corpora.endings import IMAGE_ENDINGS, ending
from pipeline.runtime.skips import BESIDE_AN_IMAGE, HIDDEN, LEFT_OUT, OF_NO_KNOWN_KIND

_WORD = re.compile(r"(?!v\d+$)[a-z_][a-z0-9_]*", re.IGNORECASE)
_COULD_BE_IMAGES = frozenset(IMAGE_ENDINGS)
# Bounds on held images with words in their extensions: each is held until an image without such
# words can no longer follow. A sample of WebDataset has fewer.
_MOST_HELD = 16
_MOST_HELD_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class ArchiveSample:
    """An image of an archive, or members of one name without an image among them."""

    key: str
    """The name with its folders, without its extension."""
    offset: int
    """Start of its first header, where the archive may be cut."""
    is_repeated: bool = False
    """True if an earlier image of this read has the same key."""
    image: Member | None = None
    """The member that is the image, None where there is none."""
    data: bytes | None = None
    """The image's bytes; None where the image is partial, a link, larger than allowed, or not
    wanted."""


class CountSkipped(Protocol):
    """A function that counts a member that could be an image and is none."""

    def __call__(self, name: str, *, reason: str) -> None: ...


def samples(
    file: BinaryIO,
    *,
    image_members: Iterable[str],
    max_image_bytes: int,
    start: int = 0,
    stop: int | None = None,
    count_skipped: CountSkipped = lambda name, *, reason: None,
) -> Iterator[ArchiveSample]:
    """Yields the samples that begin in [start, stop), with one image in memory at a time.

    Of members with one name the image is the one whose extension comes first in `image_members`.
    The file is read forward only.

    Raises:
        ArchiveDamage: after the last sample whose image is whole.
    """
    ranks = {extension.lower(): rank for rank, extension in enumerate(image_members)}
    keys: set[str] = set()
    tape = Tape(file, start=start)

    def once(found: Iterable[ArchiveSample]) -> Iterator[ArchiveSample]:
        for sample in found:
            if sample.image is None:
                yield sample
            else:
                yield replace(sample, is_repeated=sample.key in keys)
                keys.add(sample.key)

    group: _Group | None = None
    damage: ArchiveDamage | None = None
    try:
        for member in read_members(tape, stop=stop):
            if member.kind == "other":
                continue
            if is_hidden(member.name):
                if ending(member.name) in _COULD_BE_IMAGES:
                    count_skipped(member.name, reason=HIDDEN)
                continue
            key, extension = key_and_extension(member.name)
            if group is None or key != group.key or extension in group.extensions:
                if group is not None:
                    yield from once(group.end())
                group = _Group(
                    key,
                    offset=member.offset,
                    tape=tape,
                    ranks=ranks,
                    max_image_bytes=max_image_bytes,
                    count_skipped=count_skipped,
                )
            yield from once(group.add(member, extension))
    except ArchiveDamage as error:
        damage = error
    if group is not None:
        found = group.end()
        yield from once(s for s in found if s.image is not None or damage is None)
    if damage is not None:
        raise damage


def sample_offsets(
    file: BinaryIO, *, image_members: Iterable[str], start: int = 0, stop: int | None = None
) -> Iterator[ArchiveSample]:
    """Yields the samples without data, from the headers alone, to cut an archive at their offsets.

    A reader knows the keys of its own slice only: do not cut an archive with a sample that
    `is_repeated`.

    Raises:
        ArchiveDamage: after the last sample whose image is whole.
    """
    return samples(file, image_members=image_members, max_image_bytes=-1, start=start, stop=stop)


def is_hidden(name: str) -> bool:
    """True for the files that Macs and editors leave beside the real ones."""
    *folders, basename = name.split("/")
    return basename.startswith(".") or "__MACOSX" in folders


def key_and_extension(name: str) -> tuple[str, str]:
    """Splits a member's name into the key that a sample's members share, and the extension in lower
    case: `seg.png` of `x.seg.png`."""
    folder, slash, basename = name.removeprefix("./").rpartition("/")
    parts = basename.split(".")
    start = len(parts) - 1
    while start > 1 and _WORD.fullmatch(parts[start - 1]):
        start -= 1
    start = max(start, 1)
    return folder + slash + ".".join(parts[:start]), ".".join(parts[start:]).lower()


class _Group:
    """Collects consecutive members of one key, and decides which of them are images."""

    def __init__(
        self,
        key: str,
        *,
        offset: int,
        tape: Tape,
        ranks: Mapping[str, int],
        max_image_bytes: int,
        count_skipped: CountSkipped,
    ) -> None:
        self.key, self._offset = key, offset
        self.extensions: set[str] = set()
        self._tape, self._ranks, self._max_image_bytes = tape, ranks, max_image_bytes
        self._count_skipped = count_skipped
        self._held: list[ArchiveSample] = []
        """The images so far: the one of the plain key, or those with words in their extensions."""
        self._held_bytes = 0
        self._has_image = False
        self._is_photographs = False
        """True if too many have words in their extensions to belong to one image."""
        self._others: list[str] = []

    def add(self, member: Member, extension: str) -> Iterator[ArchiveSample]:
        """Adds a member; yields images that no later member can displace."""
        self.extensions.add(extension)
        is_plain = extension in self._ranks
        if not is_plain and extension.rpartition(".")[2] not in self._ranks:
            self._others.append(member.name)
            return
        if is_plain and not self._is_photographs:
            self._drop_others()
        elif self._held and self._held[0].key == self.key and not self._is_photographs:
            self._count_skipped(member.name, reason=BESIDE_AN_IMAGE)
            return
        key = self.key if is_plain else _without_ending(member.name)
        offset = member.offset if self._held else self._offset
        for sample in self._held:
            if sample.key != key:
                continue
            assert sample.image is not None
            if self._rank(sample.image) <= self._rank(member):
                self._count_skipped(member.name, reason=BESIDE_AN_IMAGE)
                return
            # Dropped before loading: if this one is cut, the other is still not the image.
            self._count_skipped(sample.image.name, reason=BESIDE_AN_IMAGE)
            self._held.remove(sample)
            offset = sample.offset
            break
        self._has_image = True
        data = self._load(member)
        self._held.append(ArchiveSample(key=key, offset=offset, image=member, data=data))
        self._held_bytes += member.size
        if len(self._held) > _MOST_HELD or self._held_bytes > _MOST_HELD_BYTES:
            self._is_photographs = True
        if self._is_photographs:
            yield from self._held[:-1]
            del self._held[:-1]

    def end(self) -> Iterator[ArchiveSample]:
        """Yields the images that are left, or a sample without an image."""
        yield from self._held
        if not self._has_image:
            yield ArchiveSample(key=self.key, offset=self._offset)
        for name in self._others:
            if ending(name) in _COULD_BE_IMAGES:
                self._count_skipped(name, reason=BESIDE_AN_IMAGE if self._has_image else LEFT_OUT)
            elif not self._has_image:
                self._count_skipped(name, reason=OF_NO_KNOWN_KIND)

    def _load(self, member: Member) -> bytes | None:
        if member.kind == "file" and member.size <= self._max_image_bytes:
            return self._tape.read_data(member)
        self._tape.skip_data(member)
        return None

    def _drop_others(self) -> None:
        """Drops images with words in their extensions: they belong to the plain one just added."""
        for sample in self._held:
            if sample.key != self.key and sample.image is not None:
                self._count_skipped(sample.image.name, reason=BESIDE_AN_IMAGE)
        self._held = [sample for sample in self._held if sample.key == self.key]

    def _rank(self, member: Member) -> int:
        _, extension = key_and_extension(member.name)
        rank = self._ranks.get(extension)
        return self._ranks[extension.rpartition(".")[2]] if rank is None else rank


def _without_ending(name: str) -> str:
    return name.removeprefix("./").rpartition(".")[0]
