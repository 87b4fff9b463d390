"""The description of a file that its storage gives, without the content."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class File:
    """An entry of a listing."""

    uri: str
    size: int
    etag: str
    """As the store gives it; of a local file, size and modification time; empty where absent."""
    modified: float = 0.0
    """Seconds since the epoch, 0 where the store does not say."""
    may_be_read: bool = True
    """False where this user may not read it, as far as its metadata tell."""
