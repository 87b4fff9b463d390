"""Counts the images that are segmented in all processes of a job, which knows nothing of it.

Lies on the PYTHONPATH of a job; Ray's workers inherit that. Each process adds a line for each block
to a file of its own below COUNTED: the number of images that it has segmented.
"""

import functools
import importlib.machinery
import os
import sys
from typing import Any

_SEGMENTING = "pipeline.labelling.segmenting.segmenter"


def count(number: int) -> None:
    with open(os.path.join(os.environ["COUNTED"], str(os.getpid())), "a") as file:
        file.write(f"{number}\n")


class _Finder:
    """Finds the module of the segmenter as anyone would, and counts what it is called with."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != _SEGMENTING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_count(module: Any) -> None:
            execute(module)
            segment = module.Segmenter.__call__

            @functools.wraps(segment)
            def counted(segmenter: Any, block: Any) -> Any:
                rows = segment(segmenter, block)
                count(sum(kind == "image" for kind in block["kind"].to_pylist()))
                return rows

            module.Segmenter.__call__ = counted

        spec.loader.exec_module = execute_and_count  # type: ignore[method-assign]
        return spec


if "COUNTED" in os.environ:
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
