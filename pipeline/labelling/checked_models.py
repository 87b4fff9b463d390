"""Remembers models whose weights were found to be those of their configuration.

The check takes seconds, since it imports torch. A verdict is an empty file in the user's cache: its
name is the model's fingerprint with a fingerprint of the code that checked it.
"""

import contextlib
import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import maskformer
from maskformer import code_digest, user_cache

_LIBRARIES = ("torch", "timm")


def check_once(fingerprint: str, *, check: Callable[[], None]) -> None:
    """Calls `check`, unless it was satisfied with this model before.

    Raises:
        ValueError: the check does; it is called again next time.
    """
    # A cache that cannot be read or written, or a user without a home, costs a check each time.
    verdict: Path | None = None
    with contextlib.suppress(OSError, RuntimeError):
        verdict = _folder() / f"{fingerprint[:32]}-{_code_fingerprint()[:32]}"
        if verdict.exists():
            return
    check()
    with contextlib.suppress(OSError):
        if verdict is not None:
            verdict.parent.mkdir(parents=True, exist_ok=True)
            verdict.touch()  # empty: two processes may write it at once


def _folder() -> Path:
    return user_cache() / "checked_models"


def _code_fingerprint() -> str:
    code = code_digest(Path(maskformer.__file__).parent.rglob("*.py"))
    return hashlib.sha256(" ".join([*map(version, _LIBRARIES), code]).encode()).hexdigest()
