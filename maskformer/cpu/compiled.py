"""Compiling loops with numba, and keeping their machine code for the processes that come after.

numba keeps machine code until the file of its function changes, and does not look at the files of
the functions that it calls. So the folder is named after all sources that may be compiled: those of
this folder and the constants of `run_lengths`. A change of the model keeps the machine code.
"""

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba

from maskformer.kept_files import code_digest, user_cache

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGE = Path(__file__).parents[1]
_COMPILED = (_PACKAGE / "cpu", _PACKAGE / "run_lengths")


def compiled(**options: Any) -> Callable[[Function], Function]:
    """`numba.njit` without the interpreter's lock, for functions of this folder.

    Compiling takes seconds in the first process of a machine and milliseconds in those after it;
    seconds in each of them where neither the package nor the user's cache may be written to.
    """

    def decorate(function: Function) -> Function:
        usual, folder = numba.config.CACHE_DIR, kept_in()
        numba.config.CACHE_DIR = folder or usual  # is read when a function is decorated, not later
        try:
            return numba.njit(nogil=True, cache=folder is not None, **options)(function)
        finally:
            numba.config.CACHE_DIR = usual

    return decorate


@lru_cache(maxsize=1)
def kept_in() -> str | None:
    """The folder of the machine code of this version of the package, if there can be one."""
    digest = code_digest(path for folder in _COMPILED for path in folder.rglob("*.py"))
    chosen = numba.config.CACHE_DIR
    usual = (lambda: _PACKAGE / "__pycache__", user_cache)
    for place in (Path(chosen).expanduser,) if chosen else usual:
        try:
            folder = place() / f"loops-{digest[:16]}"
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except (OSError, RuntimeError):
            continue
        return str(folder)
    return None
