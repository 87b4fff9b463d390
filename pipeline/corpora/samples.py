"""Samples: which members of an archive are its images, and what they are called.

Takes the members of `archives.py`; `splitting.py` cuts archives by `sample_offsets`, `reading.py`
takes the images of `samples`. WebDataset puts what belongs together side by side under one name up
to the first dot: `x.jpg`, `x.cls`, `x.seg.png`. Photographs have dots in their names too. So:

- The extension is what follows the last dot, with the words before it, as in `x.seg.png`. A part
  that is no word belongs to the name: `22.05.jpg`, `IMG_1.v2.jpg`, `Screenshot 10.15.22.png`. A
  word begins with a letter or `_` and goes on with these and digits; `v2` is none.
- Beside an image `x.jpg`, `x.png` and `x.seg.png` are left alone, and counted.
- Without one, each of `x.left.jpg` and `x.right.jpg` is an image, called as it is up to its last
  dot.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

from pipeline.corpora.archives import ArchiveDamage, Member, Tape, read_members
from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.corpora.formats import ending
from pipeline.runtime.skips import BESIDE_AN_IMAGE, HIDDEN, LEFT_OUT, OF_NO_KNOWN_KIND

_WORD = re.compile(r"(?!v\d+$)[a-z_][a-z0-9_]*", re.IGNORECASE)
_COULD_BE_IMAGES = frozenset(IMAGE_ENDINGS)
# Of images with words in their extensions: so many are held until it is known whether one without
# follows. Files of WebDataset are fewer.
_MOST_HELD = 16
_MOST_HELD_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image of an archive, or members of one name among which none is an image."""

    key: str
    """The name with its folders, without its extension."""
    offset: int
    """Where its first header begins: where an archive may be cut."""
    is_repeated: bool = False
    """The key was that of an image before, in another sample of what was read."""
    image: Member | None = None
    """The member that is the sample's image, None where it has none."""
    data: bytes | None = None
    """The image's bytes; None where the image is partial, a link, larger than allowed, or not
    wanted."""


class CountSkipped(Protocol):
    """Is told of each member that could be an image and is none."""

    def __call__(self, name: str, *, reason: str) -> None: ...


def samples(
    file: BinaryIO,
    *,
    image_members: Iterable[str],
    max_image_bytes: int,
    start: int = 0,
    stop: int | None = None,
    count_skipped: CountSkipped = lambda name, *, reason: None,
) -> Iterator[Sample]:
    """The samples that begin in [start, stop), each with its image in memory, one at a time.

    Of members with one name the image is that with the first of the extensions `image_members`. The
    file is read forward only.

    Raises:
        ArchiveDamage: after the last sample whose image is whole.
    """
    tape = Tape(file, start=start)

    def load(member: Member) -> bytes | None:
        if member.kind == "file" and member.size <= max_image_bytes:
            return tape.read_data(member)
        tape.skip_data(member)
        return None

    return _samples(
        tape, stop=stop, image_members=image_members, load=load, count_skipped=count_skipped
    )


def sample_offsets(
    file: BinaryIO, *, image_members: Iterable[str], start: int = 0, stop: int | None = None
) -> Iterator[Sample]:
    """What `samples` gives, without data, from the headers alone: where an archive can be cut.

    Who reads a slice knows the keys of that slice only: leave an archive in one piece where one of
    its samples `is_repeated`.

    Raises:
        ArchiveDamage: after the last sample whose image is whole.
    """
    tape = Tape(file, start=start)
    return _samples(
        tape,
        stop=stop,
        image_members=image_members,
        load=tape.skip_data,
        count_skipped=lambda name, *, reason: None,
    )


def is_hidden(name: str) -> bool:
    """Whether it is what Macs and editors leave beside the files that people mean."""
    *folders, basename = name.split("/")
    return basename.startswith(".") or "__MACOSX" in folders


def key_and_extension(name: str) -> tuple[str, str]:
    """A member's name without its extension, which a sample's members share, and the extension, in
    lower case: `seg.png` of `x.seg.png`."""
    folder, slash, basename = name.removeprefix("./").rpartition("/")
    parts = basename.split(".")
    start = len(parts) - 1
    while start > 1 and _WORD.fullmatch(parts[start - 1]):
        start -= 1
    start = max(start, 1)
    return folder + slash + ".".join(parts[:start]), ".".join(parts[start:]).lower()


def _samples(
    tape: Tape,
    *,
    stop: int | None,
    image_members: Iterable[str],
    load: Callable[[Member], bytes | None],
    count_skipped: CountSkipped,
) -> Iterator[Sample]:
    ranks = {extension.lower(): rank for rank, extension in enumerate(image_members)}
    keys: set[str] = set()

    def once(found: Iterable[Sample]) -> Iterator[Sample]:
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
                    key, member.offset, ranks=ranks, load=load, count_skipped=count_skipped
                )
            yield from once(group.add(member, extension))
    except ArchiveDamage as error:
        damage = error
    if group is not None:
        found = group.end()
        yield from once(s for s in found if s.image is not None or damage is None)
    if damage is not None:
        raise damage


class _Group:
    """The members in a row that share a key, until it is known which of them are images."""

    def __init__(
        self,
        key: str,
        offset: int,
        *,
        ranks: Mapping[str, int],
        load: Callable[[Member], bytes | None],
        count_skipped: CountSkipped,
    ) -> None:
        self.key = key
        self.extensions: set[str] = set()
        self._offset, self._ranks, self._load, self._count_skipped = (
            offset,
            ranks,
            load,
            count_skipped,
        )
        self._held: list[Sample] = []
        """Images, none twice under one name: that of the key alone, or those with words in their
        extensions."""
        self._held_bytes = 0
        self._has_image = False
        self._is_photographs = False
        """There are too many with words in their extensions to belong to one image."""
        self._others: list[str] = []

    def add(self, member: Member, extension: str) -> Iterator[Sample]:
        """Takes a member; gives images that wait for none any more."""
        self.extensions.add(extension)
        is_plain = extension in self._ranks
        if not is_plain and extension.rpartition(".")[2] not in self._ranks:
            self._others.append(member.name)
            return
        if is_plain and not self._is_photographs:
            self._let_go_of_others()
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
            # Let go first: should this one be cut, the lesser is still not the image.
            self._count_skipped(sample.image.name, reason=BESIDE_AN_IMAGE)
            self._held.remove(sample)
            offset = sample.offset
            break
        self._has_image = True
        data = self._load(member)
        self._held.append(Sample(key=key, offset=offset, image=member, data=data))
        self._held_bytes += member.size
        if len(self._held) > _MOST_HELD or self._held_bytes > _MOST_HELD_BYTES:
            self._is_photographs = True
        if self._is_photographs:
            yield from self._held[:-1]
            del self._held[:-1]

    def end(self) -> Iterator[Sample]:
        """Gives the images that are left, or what has none."""
        yield from self._held
        if not self._has_image:
            yield Sample(key=self.key, offset=self._offset)
        for name in self._others:
            if ending(name) in _COULD_BE_IMAGES:
                self._count_skipped(name, reason=BESIDE_AN_IMAGE if self._has_image else LEFT_OUT)
            elif not self._has_image:
                self._count_skipped(name, reason=OF_NO_KNOWN_KIND)

    def _let_go_of_others(self) -> None:
        """Drops images with words in their extensions: they belong to the one that is here now."""
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
