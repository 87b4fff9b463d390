"""Words numbers and lists for the lines that people read."""

from collections.abc import Sequence


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Returns the number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def list_some(names: Sequence[object], *, at_most: int = 5) -> str:
    """Returns the first names, and the number of the others: "a, b and 3 more"."""
    more = f" and {len(names) - at_most:,} more" if len(names) > at_most else ""
    return ", ".join(map(str, names[:at_most])) + more


def data_size(num_bytes: int) -> str:
    """Returns the size in the unit that fits: "12 bytes", "3.4 kB", "1.2 GB"."""
    if num_bytes < 1000:
        return count(num_bytes, "byte")
    size, units = num_bytes / 1000, iter(("kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.95 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}"
