"""Looks for GPUs without a library that talks to them."""

import os
from pathlib import Path


def has_gpu() -> bool:
    """Returns whether this process may use a GPU of NVIDIA, as far as is known without a driver."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")
    return not hidden and Path("/proc/driver/nvidia/version").is_file()
