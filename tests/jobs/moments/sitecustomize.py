"""Makes something happen at a moment inside the processes of a job, which knows nothing of it.

Lies on the PYTHONPATH of a job; Ray's workers inherit that. MOMENTS holds `job_runs.Moment`s: when
a file appears, is removed or read, or images are segmented, the driver or the process itself is
killed, or the process stands still for ever, or until something else has happened.
"""

import fnmatch
import functools
import importlib.machinery
import json
import os
import signal
import sys
import time
from typing import Any

_MOMENTS = json.loads(os.environ.get("MOMENTS", "[]"))
_DRIVER = int(os.environ.setdefault("MOMENTS_DRIVER", str(os.getpid())))


def _reached(at: str, name: str) -> None:
    for moment in _MOMENTS:
        here = moment["node"] in (None, os.environ.get("TEST_NODE"))
        if here and moment["at"] == at and fnmatch.fnmatch(name, moment["name"]):
            _happen(moment)


def _happen(moment: dict[str, Any]) -> None:
    if moment["until"] is not None:
        while not os.path.exists(moment["until"]):
            time.sleep(0.05)
        return
    try:
        os.close(os.open(moment["flag"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if moment["do"] == "wait":
        time.sleep(600)
    if moment["do"] == "kill driver":
        os.kill(_DRIVER, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # what was about to happen does not


def _watch(owner: Any, name: str, watched: Any) -> None:
    setattr(owner, name, functools.wraps(getattr(owner, name))(watched))


def _watch_files() -> None:
    unlink, fstat = os.unlink, os.fstat

    def putting(put: Any) -> Any:
        def watched(source: Any, target: Any, **options: Any) -> None:
            _reached("before put", str(target))
            put(source, target, **options)
            _reached("after put", str(target))

        return watched

    def unlinked(path: Any, **options: Any) -> None:
        _reached("before unlink", str(path))
        unlink(path, **options)

    def looked_at(file: int) -> os.stat_result:
        # Whoever reads a local file of the corpus first holds it to its etag.
        _reached("before read", os.readlink(f"/proc/self/fd/{file}"))
        return fstat(file)

    _watch(os, "replace", putting(os.replace))
    _watch(os, "link", putting(os.link))
    _watch(os, "unlink", unlinked)
    _watch(os, "fstat", looked_at)


class _SegmentingFinder:
    """Finds the module of the segmenter as anyone would, and watches what it is called with."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name != "pipeline.labelling.segmenting.segmenter":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_watch(module: Any) -> None:
            execute(module)
            segment = module.Segmenter.__call__

            def segmented(segmenter: Any, block: Any) -> Any:
                _reached("before segment", " ".join(map(str, block["image_id"].to_pylist())))
                return segment(segmenter, block)

            _watch(module.Segmenter, "__call__", segmented)

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


if _MOMENTS:
    _watch_files()
    sys.meta_path.insert(0, _SegmentingFinder)  # type: ignore[arg-type]
