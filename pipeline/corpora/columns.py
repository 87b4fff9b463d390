"""Columns: which column of a manifest holds locations, and which one ids.

`uri` and `image_id` in any case are sure; other usual names are taken where the user named the
manifest itself and no two of them compete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_OTHER_NAMES = (
    "image_uri", "image_url", "url", "image_path", "img_path", "filepath", "file_path", "path",
    "file_name", "filename", "image_file",
)  # fmt: skip
_MOST_SHOWN = 12


class UnsureColumns(ValueError):
    """No column holds locations beyond doubt; the message says which there are."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a manifest that are read."""

    location: str
    image_id: str | None
    is_sure: bool
    """Whether the location's column is called `uri`."""
    notice: str | None
    """What people should know of the choice."""


def columns_of(names: Sequence[str], *, separator: str = ",") -> Columns:
    """Chooses the columns.

    Raises:
        UnsureColumns: there is no column of locations, or there are several.
    """
    locations, is_sure = _called(names, ("uri",)), True
    if not locations:
        locations, is_sure = _called(names, _OTHER_NAMES), False
    if len(locations) != 1:
        shown = ", ".join(name[:40] for name in names[:_MOST_SHOWN]) or "none"
        several = f"{' and '.join(locations)} may all hold locations" if locations else ""
        raise UnsureColumns(
            f"a manifest must have one column of locations called uri, the columns are {shown}"
            + (f"; {several}" if several else "")
            + "; call that of the locations uri"
        )
    notices = []
    if not is_sure:
        notices.append(f"the locations are taken from its column {locations[0]}")
    if separator != ",":
        shown = "tabs" if separator == "\t" else f"'{separator}'"
        notices.append(f"its columns are separated by {shown}")
    ids = _called(names, ("image_id",))
    return Columns(
        location=locations[0],
        image_id=ids[0] if len(ids) == 1 else None,
        is_sure=is_sure,
        notice="; ".join(notices) or None,
    )


def _called(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names that are one of those wanted: exactly, or else but for case and blanks."""
    exact = [name for name in names if name in wanted]
    return exact or [name for name in names if name.strip().lower() in wanted]
