"""One precision is one arithmetic, wherever a model is loaded."""

import warnings
from collections.abc import Iterator

import pytest
import torch

from pipeline.evaluation.inference_modes import SlidingWindow
from pipeline.evaluation.multi_view_segmenter import MultiViewSegmenter
from pipeline.labelling.segmenting.model_loading import (
    DTYPES,
    float32_precision_kept,
    load_model,
    set_float32_precision,
)
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings


def float32_arithmetic() -> list[str]:
    """Returns how a GPU computes products and convolutions of float32, by both ways of asking."""
    backends = torch.backends
    flags = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
    names = (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision)
    by_flag = ["tf32" if flag else "exact" for flag in flags]
    by_name = ["tf32" if name == "tf32" else "exact" for name in names]
    assert by_flag == by_name
    return by_flag


@pytest.fixture(autouse=True)
def torchs_own() -> Iterator[None]:
    """Torch's default: exact products, convolutions in TF32."""
    with float32_precision_kept():
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        yield


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_float32_is_exact_on_a_gpu_unless_tf32_is_asked_for(model_files, precision):
    assert float32_arithmetic() == ["exact", "tf32"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = load_model(model_files, settings=SegmentSettings(precision=precision))
    assert float32_arithmetic() == (["tf32"] * 2 if precision == "tf32" else ["exact"] * 2)
    assert {each.dtype for each in model.parameters()} == {DTYPES[precision]}


def segmenter_of(files, settings):
    Segmenter(files, settings=settings, num_threads=1)


def evaluation(files, settings):
    mode = SlidingWindow(size=(64, 64), overlap=8)
    MultiViewSegmenter(files, settings=settings, mode=mode, num_threads=1)


@pytest.mark.parametrize("use", [segmenter_of, evaluation], ids=lambda use: use.__name__)
@pytest.mark.parametrize(("precision", "arithmetic"), [("fp32", "exact"), ("tf32", "tf32")])
def test_labelling_and_evaluation_compute_alike(model_files, use, precision, arithmetic):
    use(model_files, SegmentSettings(precision=precision))
    assert float32_arithmetic() == [arithmetic] * 2


def test_what_was_set_before_is_restored_also_after_an_error():
    @float32_precision_kept()
    def fails() -> None:
        set_float32_precision("tf32")
        raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fails()
    assert float32_arithmetic() == ["exact", "tf32"]
