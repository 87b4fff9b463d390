"""Reads the files that links in an archive lead to.

Hard links name a member, symbolic ones a path from their own folder. Either may lead to another
link, before or behind it, and outside of the slice that is read. So the headers of the whole
archive are read again to find the targets, and then the data of the targets.
"""

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.corpora.archives import ArchiveDamage, Member, Tape, members


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A link and its target."""

    link: Member
    target: Member | None
    """None where the archive has no such file, or links lead in a circle."""
    data: bytes | None
    """None where the target is partial, larger than allowed, or cut."""


def linked_files(
    file: BinaryIO, links: Sequence[Member], *, max_image_bytes: int
) -> Iterator[Linked]:
    """Reads the targets of links, in the order of the targets, one in memory at a time."""
    found: dict[Member, list[Member]] = defaultdict(list)
    for link, target in _targets(file, links):
        if target is None:
            yield Linked(link=link, target=None, data=None)
        else:
            found[target].append(link)
    tape = Tape(file, start=0)
    for target in sorted(found, key=lambda member: member.data_offset):
        data = None
        if target.kind == "file" and target.size <= max_image_bytes:
            data = _data(tape, target)
        for link in found[target]:
            yield Linked(link=link, target=target, data=data)


def _data(tape: Tape, target: Member) -> bytes | None:
    try:
        tape.move_to(target.data_offset)
        return tape.read_data(target)
    except ArchiveDamage:
        return None


def _targets(file: BinaryIO, links: Sequence[Member]) -> Iterator[tuple[Member, Member | None]]:
    """Yields each link with the file at its end, None where there is none."""
    wanted = {_target_name(link) for link in links}
    while True:
        by_name = _members_called(file, wanted)
        ends = [_end(link, by_name=by_name) for link in links]
        # Links may lead to links whose targets are not wanted yet.
        missing = {end for end in ends if isinstance(end, str)} - wanted
        if not missing:
            break
        wanted |= missing
    for link, end in zip(links, ends, strict=True):
        yield link, None if isinstance(end, str) else end


def _members_called(file: BinaryIO, names: set[str]) -> dict[str, list[Member]]:
    """Returns all links of the archive, and its files with these names."""
    found: dict[str, list[Member]] = defaultdict(list)
    try:
        for member in members(file):
            name = _plain(member.name)
            if member.is_link or (member.kind != "other" and name in names):
                found[name].append(member)
    except ArchiveDamage:
        pass  # reading the archive reports it
    return found


def _end(link: Member, *, by_name: dict[str, list[Member]]) -> Member | str:
    """Follows a link to its file; returns the name that is missing where it leads to none."""
    seen: set[int] = set()
    while link.is_link:
        if link.offset in seen:
            return _target_name(link)
        seen.add(link.offset)
        candidates = [m for m in by_name.get(_target_name(link), ()) if m.offset != link.offset]
        if link.kind == "hard link":
            # A hard link means the file that had the name when the link was written.
            before = [member for member in candidates if member.offset < link.offset]
            candidates = before or candidates
        if not candidates:
            return _target_name(link)
        link = candidates[-1]
    return link


def _target_name(link: Member) -> str:
    if link.kind == "hard link":
        return _plain(link.target)
    return _plain(posixpath.join(posixpath.dirname(link.name), link.target))


def _plain(name: str) -> str:
    """Returns a path from the archive's root, without `.` and inner `..`, as extraction does."""
    return posixpath.normpath(name).lstrip("/")
