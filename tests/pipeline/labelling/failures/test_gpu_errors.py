"""What the texts of GPU libraries mean: less memory, another process, or an error of our own."""

import pytest
import torch

from pipeline.labelling.failures.gpu_errors import is_gpu_error, is_gpu_memory_error
from pipeline.labelling.segmenting import little_memory
from pipeline.labelling.segmenting.little_memory import (
    check_computes,
    free_memory,
    is_out_of_memory,
)

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("HIP error: something else"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
    RuntimeError("CUDA driver error: device not ready"),
    RuntimeError("Unexpected error from cudaGetDeviceCount()."),
    RuntimeError("No CUDA GPUs are available"),
]
OTHERS = [
    RuntimeError("shapes do not match"),
    ValueError("CUDA error: not one of torch"),
    KeyError("CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_too_little_memory_makes_batches_smaller(error):
    assert is_gpu_memory_error(error)
    assert is_out_of_memory(error)
    assert not is_gpu_error(error)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_other_errors_of_a_gpu_end_the_process(error):
    assert is_gpu_error(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_all_else_is_an_error_in_our_own_code(error):
    assert not is_gpu_error(error)
    assert not is_out_of_memory(error)


def test_the_cpu_says_that_it_has_no_memory_in_words_of_its_own():
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
    assert is_out_of_memory(error)
    assert not is_gpu_memory_error(error)


def test_a_device_that_computes_wrongly_is_an_error_of_the_gpu(monkeypatch):
    check_computes(torch.device("cpu"))
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda image, kernel: image)
    with pytest.raises(RuntimeError, match="wrong") as raised:
        check_computes(torch.device("cpu"))
    assert is_gpu_error(raised.value)


def test_a_card_that_does_not_compute_afterwards_was_not_out_of_memory(monkeypatch):
    """cuDNN says INTERNAL_ERROR for both: the image must not get the blame of the card."""

    def broken(device: torch.device) -> None:
        raise RuntimeError(f"CUDA error: {device.type} is lost")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(little_memory, "check_computes", broken)
    with pytest.raises(RuntimeError, match="CUDA error: cuda is lost"):
        free_memory()
