"""A file as its storage shows it, without its content."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class File:
    """One object as a listing shows it."""

    uri: str
    size: int
    etag: str
    """As the store gives it; of a local file, size and modification time."""
    modified: float = 0.0
    """Seconds since the epoch, 0 where the store does not say."""
    may_be_read: bool = True
    """False where this user is refused, as far as looking at it tells."""
