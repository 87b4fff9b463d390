"""Reads tar archives strictly: every member is whole, or `ArchiveDamage` is raised.

Takes an open file, plain or compressed; `samples.py` finds the images among the members, `links.py`
the targets of links. Python's tarfile ends silently at a missing or damaged header, so that a shard
that lost its tail looks like a short one. Here that is an error:

- An archive ends with a block of zeros. One is enough, since only the end begins with it; none,
  even after a whole member, means that the archive is cut.
- An archive behind the end of another (`cat a.tar b.tar`) is read too. Other bytes there are
  ignored, unless a header follows them: then something in between was damaged.
- More zeros than any writer pads with are a hole, as an unfinished download leaves.
- Sizes are not trusted: nothing is allocated or skipped before the data are seen to be there.

Two kinds of damage do not show in a tar: changed bytes in a member's data (the image's decoder may
notice), and a hole that begins and ends exactly at headers, which looks like two archives in a row.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pipeline.corpora.compressed import StreamDamage, compression_of, decompressed

_BLOCK_BYTES = 512
_CHUNK_BYTES = 2**20
# GNU tar pads to records of 10 KiB, and of 1 MiB where people set the largest in use.
_LONGEST_PADDING_BYTES = 2**21
_LONGEST_RECORDS_BYTES = 2**22


class ArchiveDamage(Exception):
    """The archive is damaged from `offset` on; all before it was read."""

    def __init__(self, offset: int, message: str, truncated: bool) -> None:
        super().__init__(offset, message, truncated)
        self.offset = offset
        """Start of the first member that is incomplete, in the uncompressed tar."""
        self.message = message
        self.truncated = truncated
        """The archive ends too early; otherwise its content is wrong."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file in an archive, or an entry in the place of one."""

    name: str
    """As written, `..` included; bytes that are not UTF-8 appear as `\\xff`."""
    offset: int
    """Start of its first header."""
    data_offset: int
    size: int
    """Bytes of data in the archive."""
    kind: Literal["file", "partial", "hard link", "symbolic link", "other"]
    """A partial file is sparse, or continues one from another volume; a link's data are elsewhere;
    `other` are directories, devices and the like."""
    target: str
    """Target of a link, as written: a member's name for a hard link, a path from the link's own
    folder for a symbolic one."""

    @property
    def is_link(self) -> bool:
        return self.kind in ("hard link", "symbolic link")


def members(file: BinaryIO, *, start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """Yields the members of all kinds whose first header begins in [start, stop).

    The file may be read and moved between two members, unless it is compressed.

    Raises:
        ArchiveDamage: after the last member whose headers are whole.
    """
    return read_members(Tape(file, start=start), stop=stop)


def read_members(tape: "Tape", *, stop: int | None = None) -> Iterator[Member]:
    """Yields the members from the tape's position on; their data may be read in between."""
    records_for_all: dict[str, str] = {}
    while stop is None or tape.position < stop:
        tape.begin_member(at=tape.position)
        header = tape.read_header() or _header_behind_the_end(tape)
        if header is None or (stop is not None and tape.member_offset >= stop):
            return
        if header.kind == b"g":
            # Applies to all later members. A slice misses those before it, but writers put only
            # comments there, as git does, and no names or sizes.
            records_for_all |= _pax_records(tape, tape.read_records(header))
            continue
        member = _read_member(tape, header, records_for_all=records_for_all)
        yield member
        tape.skip_data(member)


def _header_behind_the_end(tape: "Tape") -> "_Header | None":
    """Returns the first header behind a block of zeros, None where the file ends with zeros."""
    end = tape.member_offset
    block = tape.read(_BLOCK_BYTES)
    if len(block) == _BLOCK_BYTES and any(block):
        raise tape.damage("a lone block of zeros stands where a header should")
    while len(block) == _BLOCK_BYTES and not any(block):
        if tape.position - end > _LONGEST_PADDING_BYTES:
            message = "zeros begin here that are too many for the end, as in an unfinished download"
            raise tape.damage(message, truncated=True)
        block = tape.read(_BLOCK_BYTES)
    tape.begin_member(at=tape.position - len(block))
    if len(block) < _BLOCK_BYTES:
        return None
    if _has_checksum(block) or _has_magic(block):
        return tape.header(block)
    while len(block := tape.read(_BLOCK_BYTES)) == _BLOCK_BYTES:
        if _has_checksum(block):
            raise tape.damage("bytes that are no header stand between two archives in the file")
    return None


def _read_member(tape: "Tape", header: "_Header", *, records_for_all: dict[str, str]) -> Member:
    """Reads the member that begins with a header; leaves the tape at its data."""
    records = dict(records_for_all)
    while header.kind in _FORERUNNERS:
        data = tape.read_records(header)
        if header.kind == b"L":
            records["path"] = _text(data)
        elif header.kind == b"K":
            records["linkpath"] = _text(data)
        else:
            records |= _pax_records(tape, data)
        following = tape.read_header()
        if following is None or following.kind == b"g":
            raise tape.damage("a header that holds a long name or size has no member behind it")
        header = following
    if header.has_sparse_map:
        tape.read_sparse_map()
    size = 0 if header.kind in _WITHOUT_DATA else _size(tape, header, records=records)
    return Member(
        name=records.get("GNU.sparse.name") or records.get("path") or header.name,
        offset=tape.member_offset,
        data_offset=tape.position,
        size=size,
        kind=_kind(header, records=records),
        target=records.get("linkpath") or header.target if header.kind in _LINKS else "",
    )


_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=\n]+)=")


def _pax_records(tape: "Tape", data: bytes) -> dict[str, str]:
    """Parses the lines `<length of the line> <key>=<value>`."""
    records = {}
    start, end = 0, len(data.rstrip(b"\0"))
    while start < end:
        match = _PAX_RECORD.match(data, start)
        stop = start + int(match[1]) if match else 0
        if not match or not match.end() < stop <= end or data[stop - 1 : stop] != b"\n":
            raise tape.damage("a pax header's records are damaged")
        records[_text(match[2])] = _text(data[match.end() : stop - 1])
        start = stop
    return records


def _size(tape: "Tape", header: "_Header", *, records: dict[str, str]) -> int:
    stated = records.get("size")
    if stated is None:
        return header.size
    if not re.fullmatch(r"[0-9]{1,20}", stated):
        raise tape.damage(f"a pax header gives {stated!r} as size")
    return int(stated)


def _kind(
    header: "_Header", *, records: dict[str, str]
) -> Literal["file", "partial", "hard link", "symbolic link", "other"]:
    if header.kind in _LINKS:
        return _LINKS[header.kind]
    if header.kind in _OTHERS or (header.kind == b"\0" and header.name.endswith("/")):
        return "other"
    if header.kind in _PARTIAL or any(key.startswith("GNU.sparse.") for key in records):
        return "partial"
    return "file"  # POSIX wants unknown kinds taken for files


class Tape:
    """Reads an archive forward, and words the errors where that fails."""

    def __init__(self, file: BinaryIO, *, start: int) -> None:
        file.seek(0)
        head = file.read(_BLOCK_BYTES)
        is_plain = len(head) == _BLOCK_BYTES and _has_checksum(head)
        compression = None if is_plain else compression_of(head)
        file.seek(0)
        self._file = decompressed(file, compression=compression) if compression else file
        self._end = None if compression else file.seek(0, io.SEEK_END)
        self.position = 0
        self.member_offset = start
        self.move_to(start)

    def begin_member(self, *, at: int) -> None:
        """Attributes later damage to the member that begins here."""
        self.member_offset = at

    def damage(self, message: str, *, truncated: bool = False) -> ArchiveDamage:
        message = f"{message} (byte {self.member_offset} of the tar)"
        return ArchiveDamage(self.member_offset, message, truncated)

    def read(self, size: int) -> bytes:
        """Returns that many bytes, fewer only where the archive ends."""
        if self._end is not None:
            self._file.seek(self.position)
        chunks = []
        try:
            while size and (chunk := self._file.read(min(size, _CHUNK_BYTES))):
                chunks.append(chunk)
                size -= len(chunk)
                self.position += len(chunk)
        except StreamDamage as error:
            raise self.damage(error.message, truncated=error.truncated) from None
        return b"".join(chunks)

    def read_header(self) -> "_Header | None":
        """Returns the next header, None for the block of zeros that ends an archive."""
        block = self.read(_BLOCK_BYTES)
        if len(block) == _BLOCK_BYTES:
            return self.header(block) if any(block) else None
        where = "in a header" if block else "without the zeros that mark an end"
        raise self.damage(f"the archive ends {where}, at byte {self.position}", truncated=True)

    def header(self, block: bytes) -> "_Header":
        size = _number(block[124:136])
        if not _has_checksum(block) or size is None:
            raise self.damage("a header is damaged, or this is no tar archive")
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and block[345]:
            name = f"{_text(block[345:500])}/{name}"
        kind = block[156:157]
        return _Header(
            name=name,
            kind=kind,
            size=size,
            target=_text(block[157:257]),
            has_sparse_map=kind == b"S" and bool(block[482]),
        )

    def read_sparse_map(self) -> None:
        """Skips the blocks behind the header of an old GNU sparse file."""
        while True:
            block = self.read(_BLOCK_BYTES)
            if len(block) < _BLOCK_BYTES:
                raise self.damage(
                    f"the archive ends in a header, at byte {self.position}", truncated=True
                )
            if not block[504]:
                return

    def read_records(self, header: "_Header") -> bytes:
        """Returns the data of a header that describes other headers."""
        if header.size > _LONGEST_RECORDS_BYTES:
            raise self.damage(f"a header of {header.size} bytes for a name or size is damaged")
        return self._read_whole(header.size, what="a long header")

    def read_data(self, member: Member) -> bytes:
        return self._read_whole(member.size, what=repr(member.name))

    def skip_data(self, member: Member) -> None:
        """Moves to the expected start of the next header."""
        data_stop = member.data_offset + member.size
        self.move_to(data_stop)
        self._check_reached(data_stop, what=repr(member.name))
        self.move_to(_padded(data_stop))

    def _read_whole(self, size: int, *, what: str) -> bytes:
        stop = self.position + size
        data = self.read(size)
        self._check_reached(stop, what=what)
        self.move_to(_padded(stop))
        return data

    def _check_reached(self, offset: int, *, what: str) -> None:
        if self.position < offset:
            message = f"the archive ends at byte {self.position}, in {what}, which goes to {offset}"
            raise self.damage(message, truncated=True)

    def move_to(self, offset: int) -> None:
        """Moves forward to an offset, or to the end if that comes first."""
        if self._end is not None:
            self.position = max(self.position, min(offset, self._end))
            return
        while self.position < offset and self.read(min(offset - self.position, _CHUNK_BYTES)):
            pass


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The fields of a header that are used here."""

    name: str
    kind: bytes
    size: int
    target: str
    has_sparse_map: bool


_FORERUNNERS = frozenset([b"L", b"K", b"x", b"X"])  # GNU's two, pax, Solaris' pax
_LINKS: dict[bytes, Literal["hard link", "symbolic link"]] = {
    b"1": "hard link",
    b"2": "symbolic link",
}
_OTHERS = frozenset([b"3", b"4", b"5", b"6", b"D", b"N", b"V"])
_WITHOUT_DATA = frozenset([b"1", b"2", b"3", b"4", b"5", b"6"])  # whatever their size field says
_PARTIAL = frozenset([b"S", b"M"])


def _has_checksum(block: bytes) -> bool:
    """True if a block is a header: the sum of its bytes, the sum's own field blank, is right."""
    rest = block[:148] + b" " * 8 + block[156:]
    stated = _number(block[148:156])
    signed = sum(rest) - 256 * len(rest.translate(None, delete=bytes(range(128))))
    return stated in (sum(rest), signed)  # some early writers took bytes for signed


def _has_magic(block: bytes) -> bool:
    return block[257:262] == b"ustar"


def _number(field: bytes) -> int | None:
    """Parses an octal number, or GNU's binary one; None if it is neither or below 0."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
        return None if field[0] & 0x40 else value
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        return None
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _padded(offset: int) -> int:
    return -(-offset // _BLOCK_BYTES) * _BLOCK_BYTES
