"""On the path of a run: pictures of certain bytes or colours end the process that works on them.

Decoders with a fault for each of these would be out of date the day after; so the faults are put in
front of Pillow and of the model, and do for real what such a fault does.
"""

import ctypes
import io
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    ctypes.PyDLL(None).sleep(10**6)  # with the interpreter's lock, as native code may


def exhaust() -> None:
    held = []
    while True:
        held.append(bytearray(2**26))


DEEDS = {b"crash": crash, b"hang": hang, b"memory": exhaust, b"abort": os.abort}
COLOURS = {(255, 0, 254): crash, (254, 0, 255): hang}


def _poison_pillow(module: Any) -> None:
    opened = module.open

    def open_(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, io.BytesIO):
            word = file.getvalue()[:16].removeprefix(b"poison:").split(b"\n")[0]
            DEEDS.get(word, lambda: None)()
        return opened(file, *args, **options)

    module.open = open_


def _poison_model(module: Any) -> None:
    predict = module.BatchSegmenter.predict

    def predict_(self: Any, batch: Any) -> Any:
        for image in batch:
            corners = {tuple(image.pixels[y, x].tolist()) for y in (0, -1) for x in (0, -1)}
            if len(corners) == 1:  # one of 2,000 drawn pictures has the colour in one
                COLOURS.get(corners.pop(), lambda: None)()
        return predict(self, batch)

    module.BatchSegmenter.predict = predict_


POISONED = {
    "PIL.Image": _poison_pillow,
    "pipeline.labelling.segmenting.batch_segmenter": _poison_model,
}


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        poison = POISONED.pop(name, None)
        if poison is None:
            return None
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, poison)
        return spec


class _Loader(Loader):
    def __init__(self, inner: Any, poison: Any) -> None:
        self._inner, self._poison = inner, poison

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        self._inner.exec_module(module)
        self._poison(module)


sys.meta_path.insert(0, _Finder())
