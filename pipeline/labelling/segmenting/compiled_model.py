"""Runs the model of a batch, compiled for the shapes that come most.

`batch_segmenter.py` calls it on batches for a GPU. Compiling takes a minute or two for each shape,
and pays where thousands of images have it: the first images of a shape go through the model as it
is, and so do shapes that are rare. What was compiled is kept in an object for each kind of model
and GPU and each shape, from which the actors of other runs and machines take it.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import maskformer
from maskformer import code_digest
from pipeline.labelling.segmenting.little_memory import is_out_of_memory
from pipeline.labelling.segmenting.model_loading import ForwardModel
from pipeline.storage import Storage, StorageFault

COMMON_IMAGES = 512
"""Of a shape, from which on it is compiled; those of two units of photographs."""

MOST_SHAPES = 6
"""Torch compiles a function for up to eight by default."""

CHUNK = 32
"""Images that compiled code takes at once: it is for one number of them."""

HeightWidth = tuple[int, int]
Logits = tuple[Float[Tensor, "batch queries classes"], Float[Tensor, "batch queries _ _"]]
Compile = Callable[[Callable[[Tensor], Logits]], Callable[[Tensor], Logits]]


def logits_of(model: ForwardModel, pixel_values: Tensor) -> Logits:
    """Returns classes and masks of all queries, without a wait for the device."""
    decoding = model.decode_queries(pixel_values)
    return decoding.class_queries_logits, model.all_masks(decoding)


@dataclass(frozen=True, kw_only=True)
class CodeCache:
    """Compiled code of one kind of model, in a folder or prefix, with an object for each shape.

    It is code that runs: who may write there may run programs in the actors. Torch could keep all
    shapes in one object, but would load only those that were compiled since it last kept any.
    """

    folder: str
    storage: Storage
    key: str

    @classmethod
    def of(cls, folder: str, *, storage: Storage, config: bytes, precision: str) -> "CodeCache":
        """Returns that of models with this config.json: weights may differ."""
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        code = code_digest(Path(maskformer.__file__).parent.rglob("*.py"))
        facts = [torch.__version__, device, precision, hashlib.sha256(config).hexdigest(), code]
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
        return cls(folder=folder, storage=storage, key=key)

    def uri(self, shape: HeightWidth) -> str:
        return f"{self.folder.rstrip('/')}/{self.key}-{CHUNK}x{shape[0]}x{shape[1]}.bin"

    def has(self, shape: HeightWidth) -> bool:
        """Returns whether the code of a shape is kept."""
        try:
            return self.storage.file(self.uri(shape)) is not None
        except StorageFault as error:
            warnings.warn(f"{self.uri(shape)}: cannot be looked at: {error}", stacklevel=2)
            return False

    def load(self, shape: HeightWidth) -> bool:
        """Hands the code of a shape to the compiler; returns whether there is any."""
        if not self.has(shape):
            return False
        try:
            code = self.storage.read(self.uri(shape))
            return torch.compiler.load_cache_artifacts(code) is not None
        except (StorageFault, RuntimeError) as error:
            warnings.warn(f"{self.uri(shape)}: compiled code cannot be read: {error}", stacklevel=2)
            return False

    def save(self, shape: HeightWidth) -> None:
        """Keeps what this process compiled since it kept anything, which is for the shape."""
        saved = torch.compiler.save_cache_artifacts()
        if saved is None:
            return
        try:
            self.storage.write(self.uri(shape), saved[0])
        except StorageFault as fault:  # the next run compiles again
            warnings.warn(f"{self.uri(shape)}: code cannot be kept: {fault}", stacklevel=2)


class CompiledModel:
    """Computes a batch's logits; one thread may call at a time."""

    def __init__(
        self,
        model: ForwardModel,
        *,
        cache: CodeCache,
        compiler: Compile | None = None,
    ) -> None:
        """Takes what `torch.compile` is by default, of static shapes."""
        self._model, self._cache = model, cache
        self._images: Counter[HeightWidth] = Counter()
        self._is_kept: dict[HeightWidth, bool] = {}
        """Whether the code of a shape was kept when its first chunk came."""
        self._shapes: set[HeightWidth] = set()
        """Those for which there is code in this process."""
        compiled: Any = compiler or _of_static_shapes
        self._compiled: Callable[[Tensor], Logits] | None = compiled(self._eager)

    def __call__(self, pixel_values: Float[Tensor, "batch 3 height width"]) -> Logits:
        """Returns classes and masks of all queries, without a wait for the device."""
        shape = (pixel_values.shape[2], pixel_values.shape[3])
        self._images[shape] += len(pixel_values)
        if self._compiled is None or len(pixel_values) < CHUNK or not self._is_common(shape):
            return self._eager(pixel_values)
        return _joined([self._chunk(part, shape=shape) for part in pixel_values.split(CHUNK)])

    def _eager(self, pixel_values: Tensor) -> Logits:
        return logits_of(self._model, pixel_values)

    def _is_common(self, shape: HeightWidth) -> bool:
        if shape in self._shapes:
            return True
        if len(self._shapes) == MOST_SHAPES:
            return False
        if shape not in self._is_kept:
            self._is_kept[shape] = self._cache.has(shape)
        # Code that is kept costs seconds, not minutes.
        return self._is_kept[shape] or self._images[shape] >= COMMON_IMAGES

    def _chunk(self, pixel_values: Tensor, *, shape: HeightWidth) -> Logits:
        """Takes compiled code for a whole chunk, and the model as it is where there is none."""
        if self._compiled is None or len(pixel_values) < CHUNK:
            return self._eager(pixel_values)
        is_new = shape not in self._shapes
        is_loaded = is_new and self._cache.load(shape)
        try:
            # Not a view of a larger batch, whose strides and offset would be others.
            logits = self._compiled(pixel_values.clone())
        except Exception as error:  # compilers raise errors of many classes
            if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                raise
            warnings.warn(
                f"the model is not compiled ({type(error).__name__}: {error}); it runs as it is, "
                "more slowly; see that a C compiler is installed",
                stacklevel=2,
            )
            self._compiled = None
            return self._eager(pixel_values)
        if is_new:
            self._shapes.add(shape)
            if not is_loaded:
                self._cache.save(shape)
        return logits


def _of_static_shapes(function: Callable[[Tensor], Logits]) -> Callable[[Tensor], Logits]:
    return torch.compile(function, dynamic=False)


def _joined(parts: Sequence[Logits]) -> Logits:
    if len(parts) == 1:
        return parts[0]
    classes, masks = zip(*parts, strict=True)
    return torch.cat(classes), torch.cat(masks)
