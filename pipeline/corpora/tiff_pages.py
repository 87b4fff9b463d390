"""Reads the directories of a TIFF file, and finds the page that is the picture.

Takes a file's bytes; `tiff.py` reads the pixels of that page. `single_page_file` makes a file of
one page or plane, to be read by itself.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property
from typing import Any, Literal

from pipeline.corpora.levels import Range

_MOST_PAGES = 32
"""Bound on pages and sub-images; the picture of a longer file is among the first ones."""
_MOST_SAMPLES = 1 << 10
LEAST_POSITION = 8
"""The least position that a directory may point at, behind the file's header."""

_NUMBERS = {
    1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q",
    18: "Q",
}  # fmt: skip
_SIZES = {2: 1, 5: 8, 7: 1, 10: 8} | {
    type: struct.calcsize(f"={number}") for type, number in _NUMBERS.items()
}
"""Bytes of a value, by its type."""


class Tag(IntEnum):
    """The tags that are read here, by their names in TIFF 6.0 where those are short."""

    SUBFILE, OLD_SUBFILE = 254, 255
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
    STRIPS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_SIZES = 273, 274, 277, 278, 279
    LARGEST, PLANES, FAX_3, FAX_4, PAGE_NUMBER, PREDICTOR = 281, 284, 292, 293, 297, 317
    COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES = 320, 322, 323, 324, 325
    SUB_PAGES, EXTRA, FORMAT, BLACK, WHITE, JPEG_TABLES = 330, 338, 339, 340, 341, 347
    JPEG_PROCESS, JPEG, JPEG_SIZE, JPEG_RESTARTS, JPEG_PREDICTORS = 512, 513, 514, 515, 517
    JPEG_TRANSFORMS, JPEG_QUANTA, JPEG_DC, JPEG_AC = 518, 519, 520, 521
    LUMA, SUBSAMPLING, SITING, REFERENCE, DNG = 529, 530, 531, 532, 50706


# All other tags determine the pixels of a page.
_NOT_OF_PIXELS = {
    Tag.SUBFILE, Tag.OLD_SUBFILE, Tag.LARGEST, Tag.PAGE_NUMBER, Tag.SUB_PAGES, Tag.BLACK,
    Tag.WHITE, Tag.DNG,
}  # fmt: skip
_TAGS_OF_PIXELS = sorted({*Tag} - _NOT_OF_PIXELS)
_POSITIONS = {
    Tag.STRIPS, Tag.TILES, Tag.JPEG, Tag.JPEG_QUANTA, Tag.JPEG_DC, Tag.JPEG_AC
}  # fmt: skip
_KNOWN = frozenset(Tag)
_SHORT, _LONG = 3, 4
_COMPRESSIONS = {
    1: "", 2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "old JPEG", 7: "JPEG", 8: "deflate",
    32773: "packbits", 32946: "deflate", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG",
    34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG of DNG", 34925: "LZMA",
    50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_PHOTOMETRICS = {
    0: "grey (white is zero)", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr",
    8: "Lab", 9: "Lab", 10: "Lab", 32803: "samples of a camera's colour filter",
    32844: "LogL", 32845: "LogLuv", 34892: "linear samples of a camera",
}  # fmt: skip
OF_CAMERAS = (32803, 34892)
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}


def is_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of one directory of a file."""

    data: bytes
    order: Literal["<", ">"]
    entries: Mapping[int, tuple[int, int, int]]
    """Type, number of values and position of the first, by tag."""
    unreadable: frozenset[int] = frozenset()
    """Tags that are repeated, or of unknown type."""
    is_usual: bool = False
    """True if Pillow opens the file at this page."""
    is_of_camera: bool = False
    """True if the file says that it is a DNG."""

    def values(self, tag: int) -> tuple[Any, ...]:
        """Returns the numbers of a tag; none where the page lacks it or it is text."""
        if tag not in self.entries or self.entries[tag][0] not in _NUMBERS:
            return ()
        type, count, position = self.entries[tag]
        return struct.unpack_from(f"{self.order}{count}{_NUMBERS[type]}", self.data, position)

    def value(self, tag: int, default: int) -> int:
        values = self.values(tag)
        return int(values[0]) if values else default

    @cached_property
    def height(self) -> int:
        return self.value(Tag.HEIGHT, 0)

    @cached_property
    def width(self) -> int:
        return self.value(Tag.WIDTH, 0)

    @property
    def size(self) -> tuple[int, int]:
        """Returns height and width, upright."""
        is_turned = self.value(Tag.ORIENTATION, 1) in (5, 6, 7, 8)
        return (self.width, self.height) if is_turned else (self.height, self.width)

    @cached_property
    def photometric(self) -> int:
        return self.value(Tag.PHOTOMETRIC, 0)

    @cached_property
    def compression(self) -> int:
        return self.value(Tag.COMPRESSION, 1)

    @cached_property
    def num_samples(self) -> int:
        return self.value(Tag.SAMPLES, max(1, len(self.values(Tag.BITS))))

    @cached_property
    def bits(self) -> tuple[int, ...]:
        bits = self.values(Tag.BITS) or (1,)
        return bits * min(self.num_samples, _MOST_SAMPLES) if len(bits) == 1 else bits

    @cached_property
    def formats(self) -> frozenset[str]:
        return frozenset(_FORMATS.get(each, "unknown") for each in self.values(Tag.FORMAT) or (1,))

    @property
    def is_separate(self) -> bool:
        """True if each colour has a plane of its own."""
        return self.value(Tag.PLANES, 1) == 2 and self.num_samples > 1

    @property
    def is_picture(self) -> bool:
        """True unless the page says that it is a smaller copy or a mask of another page."""
        is_copy = self.value(Tag.SUBFILE, 0) & 0b101 or self.value(Tag.OLD_SUBFILE, 1) == 2
        return not is_copy and self.photometric != 4 and min(self.size) > 0

    @property
    def is_of_many(self) -> bool:
        """True if the page says that it is one of several, each a picture."""
        return Tag.PAGE_NUMBER in self.entries or self.value(Tag.SUBFILE, 0) & 0b10 != 0

    @property
    def range(self) -> Range:
        black, white, largest = (self.values(tag) for tag in (Tag.BLACK, Tag.WHITE, Tag.LARGEST))
        return Range(
            black=float(min(black)) if black else None,
            white=float(max(white)) if white else None,
            largest=max(map(int, largest)) if largest else None,
        )

    def __str__(self) -> str:
        """Describes the pixels as `TIFF, 3 x 64-bit float, RGB`."""
        depth = "/".join(str(each) for each in sorted({*self.bits}))
        parts = [
            f"{self.num_samples} x {depth}-bit {'/'.join(sorted(self.formats))}",
            _PHOTOMETRICS.get(self.photometric, f"photometric {self.photometric}"),
            "in separate planes" if self.is_separate else "",
            _COMPRESSIONS.get(self.compression, f"compression {self.compression}"),
        ]
        return ", ".join(["TIFF", *(part for part in parts if part)])


def find_picture(data: bytes) -> Page:
    """Returns the page that is the picture: the largest of the first page and its sub-images.

    Pages that say that they are smaller copies or masks are skipped. A first page that says nothing
    and has the shape of a later one, at half its size or less, is a smaller copy too.

    Raises:
        ValueError, struct.error: the file's directories are damaged.
    """
    families = _families(data)
    pages = [page for family in families for page in family]
    found = next((page for family in families if (page := _largest(family))), None)
    if found is None:
        return max(pages, key=lambda page: page.height * page.width)
    copied = [page for page in pages if page.is_picture and _is_copy(found, of=page)]
    return found if found.is_of_many else _largest(copied) or found


def _largest(pages: Sequence[Page]) -> Page | None:
    pictures = [page for page in pages if page.is_picture]
    return max(pictures, key=lambda page: page.height * page.width, default=None)


def _is_copy(page: Page, *, of: Page) -> bool:
    """True if a page has the shape of another, at half its size or less."""
    if of.is_of_many or 2 * page.width > of.width or 2 * page.height > of.height:
        return False
    # A tolerance of one pixel, since the sides of a copy are rounded.
    return abs(page.width * of.height - of.width * page.height) <= max(of.height, of.width)


def _families(data: bytes) -> list[list[Page]]:
    """Returns each page with its sub-images.

    All must be sound: the pages that are left of a cut file may be smaller copies.
    """
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    start = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", data, 8 if is_big else 4)[0]
    families: list[list[Page]] = []
    seen: set[int] = set()
    while start and start not in seen and len(seen) < _MOST_PAGES:
        seen.add(start)
        page, following = _directory(data, start, order=order, is_big=is_big)
        # Pillow opens no big-endian file of 64 bits.
        is_usual = not families and not (is_big and order == ">")
        page = replace(page, is_usual=is_usual, is_of_camera=Tag.DNG in page.entries)
        subs = [sub for sub in page.values(Tag.SUB_PAGES)[:_MOST_PAGES] if sub and sub not in seen]
        seen.update(subs)
        families.append([page, *(_sub_page(page, sub, is_big=is_big) for sub in subs)])
        start = following
    if not families:
        raise ValueError("it has no page")
    return families


def _sub_page(page: Page, start: int, *, is_big: bool) -> Page:
    """Reads a sub-image; without an orientation of its own it has that of its page."""
    child, _ = _directory(page.data, start, order=page.order, is_big=is_big)
    entries = {**child.entries}
    if Tag.ORIENTATION in page.entries:
        entries.setdefault(Tag.ORIENTATION, page.entries[Tag.ORIENTATION])
    return replace(child, entries=entries, is_of_camera=page.is_of_camera)


def _directory(
    data: bytes, start: int, *, order: Literal["<", ">"], is_big: bool
) -> tuple[Page, int]:
    """Reads the page at a position; returns it and the position of the next, 0 after the last."""
    count_form, entry_form, inline = ("Q", "HHQ", 8) if is_big else ("H", "HHI", 4)
    (count,) = struct.unpack_from(order + count_form, data, start)
    position = start + struct.calcsize("=" + count_form)
    width = struct.calcsize("=" + entry_form) + inline
    if count > 1 << 16 or position + count * width > len(data):
        raise ValueError(f"a directory of {count} tags goes beyond the end")
    entries: dict[int, tuple[int, int, int]] = {}
    unreadable = set()
    for at in range(position, position + count * width, width):
        tag, type, number = struct.unpack_from(order + entry_form, data, at)
        value = at + width - inline
        size = _SIZES.get(type, 0) * number
        if size > inline:
            (value,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, value)
        if tag in _KNOWN and (type not in _SIZES or tag in entries):
            unreadable.add(tag)
        elif tag in _KNOWN:
            if value + size > len(data):
                raise ValueError(f"the values of tag {tag} go beyond the end")
            if value < LEAST_POSITION:
                raise ValueError(f"the values of tag {tag} lie in the file's header")
            entries[tag] = (type, number, value)
    end = position + count * width
    form = order + ("Q" if is_big else "I")
    # The last word may be missing where a file ends with its directory.
    following = struct.unpack_from(form, data, end)[0] if end + inline <= len(data) else 0
    page = Page(data=data, order=order, entries=entries, unreadable=frozenset(unreadable))
    return page, following


def single_page_file(page: Page, changes: Mapping[int, Sequence[int]]) -> bytes:
    """Makes a file of this page alone, with other numbers for some of its tags.

    A tag that is changed to no values is left out. The pixels stay as they are and come last, so
    that cut data end at the same pixel.
    """
    order = page.order
    # All positions take the same number of bytes, so the first try tells how far they move.
    start = 8 + len(_directory_bytes(page, changes, moved_by=0))
    directory = _directory_bytes(page, changes, moved_by=start)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return b"".join([header, directory, page.data])


def _directory_bytes(page: Page, changes: Mapping[int, Sequence[int]], *, moved_by: int) -> bytes:
    """Encodes a directory at position 8, and its values behind it."""
    entries = list(_values(page, changes, moved_by=moved_by))
    beyond = 8 + 2 + 12 * len(entries) + 4
    near, far = [struct.pack(f"{page.order}H", len(entries))], []
    for tag, type, count, raw in entries:
        near.append(struct.pack(f"{page.order}HHI", tag, type, count))
        if len(raw) <= 4:
            near.append(raw.ljust(4, b"\0"))
        else:
            near.append(struct.pack(f"{page.order}I", beyond))
            far.append(raw + b"\0" * (len(raw) % 2))
            beyond += len(far[-1])
    return b"".join([*near, bytes(4), *far])


def _values(
    page: Page, changes: Mapping[int, Sequence[int]], *, moved_by: int
) -> Iterator[tuple[int, int, int, bytes]]:
    """Yields tag, type, number and bytes of the values that determine the pixels, by tag."""
    for tag in _TAGS_OF_PIXELS:
        type, count, position = page.entries.get(tag, (_SHORT, 0, 0))
        # Numbers of 64 bits fit into 32 here.
        if tag in changes or tag in _POSITIONS or type in (13, 16, 17, 18):
            numbers = [int(each) for each in changes.get(tag, page.values(tag))]
            is_short = tag not in _POSITIONS and max(numbers, default=0) < 1 << 16
            type, count = _SHORT if is_short else _LONG, len(numbers)
            numbers = [each + moved_by for each in numbers] if tag in _POSITIONS else numbers
            raw = struct.pack(f"{page.order}{count}{_NUMBERS[type]}", *numbers)
        else:
            raw = page.data[position : position + _SIZES[type] * count]
        if count:
            yield tag, type, count, raw
