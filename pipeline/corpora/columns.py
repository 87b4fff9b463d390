"""Finds the column of a manifest that holds locations, and the one that holds ids.

A column `uri` or `image_id`, in upper or lower case, is certain. Other usual names count where the
user named the manifest itself and only one column has such a name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_OTHER_NAMES = (
    "image_uri", "image_url", "url", "image_path", "img_path", "filepath", "file_path", "path",
    "file_name", "filename", "image_file",
)  # fmt: skip
_MOST_SHOWN = 12


class UnsureColumns(ValueError):
    """Raised where no column certainly holds locations; the message lists the columns."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a manifest that are read."""

    location: str
    image_id: str | None
    is_sure: bool
    """True if the column of locations is called `uri`."""
    notice: str | None
    """A remark for people on the choice."""


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
    """Returns the names among those wanted: exact ones, or else ignoring case and blanks."""
    exact = [name for name in names if name in wanted]
    return exact or [name for name in names if name.strip().lower() in wanted]
