"""Loads a run's model onto an actor's device, with the engine and precision of the settings.

Labelling and evaluation load their models here, so that one precision means one arithmetic
everywhere: `_table.json` records it by name, and the engine too.
"""

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from maskformer import (
    GraphFiles,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    OnnxModel,
    QueryDecoding,
)
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.segmenting.little_memory import check_computes
from pipeline.labelling.settings import Engine, Precision, SegmentSettings

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The format of weights and activations for each precision."""

_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class ModelInMemory:
    """A model of this process, such as one in training, with its image processor."""

    model: MaskFormerForInstanceSegmentation
    processor: MaskFormerImageProcessor


ModelSource: TypeAlias = ModelFiles | ModelInMemory
"""The model of a run: its files, or itself."""


class ForwardModel(Protocol):
    """A model as segmenters call it: pixels to classes, and to the masks of kept queries."""

    @property
    def config(self) -> MaskFormerConfig: ...

    @property
    def device(self) -> torch.device: ...

    def decode_queries(self, pixel_values: Float[Tensor, "batch colours _ _"]) -> QueryDecoding: ...

    def kept_masks(
        self, decoding: QueryDecoding, kept: Sequence[Int[Tensor, " _"]]
    ) -> list[Float[Tensor, "_ height width"]]: ...

    def all_masks(self, decoding: QueryDecoding) -> Float[Tensor, "batch queries height width"]: ...


def load_engine(
    source: ModelSource, *, settings: SegmentSettings, num_threads: int
) -> tuple[ForwardModel, MaskFormerImageProcessor]:
    """Builds what computes the model, as `load_model` does, with the engine of the settings.

    Args:
        num_threads: of an engine with threads of its own; torch's belong to each calling thread.
    """
    return _ENGINES[settings.engine](source, settings=settings, num_threads=num_threads)


def load_model(
    source: ModelSource, *, settings: SegmentSettings
) -> tuple[MaskFormerForInstanceSegmentation, MaskFormerImageProcessor]:
    """Builds model and processor from the files that the driver read: nodes need no copy.

    The model is on the GPU, where there is one; of a model in memory it is a copy, on the same
    device. The process computes in float32 as the precision says from then on; see
    `set_float32_precision`.

    Raises:
        RuntimeError: the GPU is there and does not compute.
    """
    set_float32_precision(settings.precision)
    if isinstance(source, ModelInMemory):
        copied = copy.deepcopy(source.model).requires_grad_(False)
        return copied.to(DTYPES[settings.precision]).eval(), source.processor
    device = _working_device()
    model, processor = _from_files(source, settings=settings)
    return model.eval().to(device), processor


def _from_files(
    files: ModelFiles, *, settings: SegmentSettings
) -> tuple[MaskFormerForInstanceSegmentation, MaskFormerImageProcessor]:
    with _as_folder(files) as folder:
        model = MaskFormerForInstanceSegmentation.from_pretrained(
            folder, dtype=DTYPES[settings.precision]
        )
        processor = MaskFormerImageProcessor.from_pretrained(
            folder, resize_rule=settings.resize_rule
        )
    return model, processor


@contextmanager
def _as_folder(files: ModelFiles) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        yield folder


def _torch_engine(
    source: ModelSource, *, settings: SegmentSettings, num_threads: int
) -> tuple[ForwardModel, MaskFormerImageProcessor]:
    model, processor = load_model(source, settings=settings)
    model.keep_position_biases()
    return model, processor


def _onnx_engine(
    source: ModelSource, *, settings: SegmentSettings, num_threads: int
) -> tuple[ForwardModel, MaskFormerImageProcessor]:
    assert isinstance(source, Mapping), "a model in memory is torch's"
    with _as_folder(source) as folder:
        config = MaskFormerConfig.from_pretrained(folder)
        processor = MaskFormerImageProcessor.from_pretrained(
            folder, resize_rule=settings.resize_rule
        )
    model = OnnxModel(GraphFiles.of(source), config=config, num_threads=num_threads)
    return model, processor


_ENGINES: Mapping[Engine, Callable[..., tuple[ForwardModel, MaskFormerImageProcessor]]] = {
    "torch": _torch_engine,
    "onnx": _onnx_engine,
}


def _working_device() -> torch.device:
    """Returns the device of the process after it has computed something."""
    if torch.cuda.is_available():
        device = torch.device("cuda")
        check_computes(device)
        return device
    if torch.version.cuda and _DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES"):
        # Without this an actor would go on at a hundredth of the speed, on the CPU.
        raise RuntimeError("CUDA error: the process was given a GPU, and torch finds none")
    return torch.device("cpu")


def set_float32_precision(precision: Precision) -> None:
    """Sets how a GPU multiplies float32 numbers in this process: with TF32 for `tf32` alone.

    Torch's default differs by operation: TF32 in convolutions, all digits in matrix products. CPUs
    are not concerned.
    """
    _allow_tf32(matrix_products=precision == "tf32", convolutions=precision == "tf32")


@contextmanager
def float32_precision_kept() -> Iterator[None]:
    """Restores at its end how a GPU multiplied float32 numbers before."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    try:
        yield
    finally:
        _allow_tf32(matrix_products=before[0], convolutions=before[1])


def _allow_tf32(*, matrix_products: bool, convolutions: bool) -> None:
    # Not `fp32_precision`: after it is set, `cudnn.allow_tf32` raises when it is read, and
    # torch.compile reads it. These two keep both ways of asking consistent.
    torch.backends.cuda.matmul.allow_tf32 = matrix_products
    torch.backends.cudnn.allow_tf32 = convolutions
