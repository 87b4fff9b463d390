"""Tells GPU errors apart by class and text: too little memory, or a broken card or process.

Starts without torch: readers and the driver see such errors too, as text of another process.
"""

import re

_MEMORY = re.compile(
    r"CUDA out of memory"
    r"|(?:CUDA error|CUDA driver error|Triton Error \[CUDA\]): out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED"
    # cuDNN says this where it has no memory to load its kernels, and where a card is broken:
    # `little_memory.free_memory` finds out.
    r"|CUDNN_STATUS_INTERNAL_ERROR"
)
_ANY = re.compile(
    r"CUDA (?:driver |unknown )?error|cuDNN error|Triton Error \[CUDA\]|NVRTC error"
    r"|CUBLAS_STATUS_|CUDNN_STATUS_|CUSOLVER_STATUS_|cudaGetDeviceCount|No CUDA GPUs are available"
)


def is_gpu_memory_error(error: BaseException) -> bool:
    """Returns whether a GPU had no memory; the process can go on with less."""
    if type(error).__name__ == "OutOfMemoryError" and isinstance(error, RuntimeError):
        return True  # torch's
    return isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))


def is_gpu_error(error: BaseException) -> bool:
    """Returns whether a GPU failed in another way than for want of memory.

    Nothing can be computed after it in the same process.
    """
    if not isinstance(error, RuntimeError) or is_gpu_memory_error(error):
        return False
    return type(error).__name__ == "AcceleratorError" or bool(_ANY.search(str(error)))
