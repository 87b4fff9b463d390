"""What is kept in the user's cache: where it lies, and which code made it."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def user_cache() -> Path:
    """Returns the folder `maskformer` of the user's cache, which may be missing.

    Raises:
        RuntimeError: nobody knows where the user's home is.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "maskformer").expanduser()


def code_digest(sources: Iterable[Path]) -> str:
    """Returns a digest that changes with what any of the files holds."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()
