"""What a figure is of: the machine, the libraries and the state of the project."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
_BF16_KINDS = ("amx_bf16", "avx512_bf16")
_CPU_KINDS = (*_BF16_KINDS, "avx512f", "avx2")


def usual_precision() -> str:
    """Returns "bf16" where a GPU or the CPU computes in it; "fp32" where it is only emulated."""
    has_bf16 = torch.cuda.is_available() or _cpu_kind(_cpu()) in _BF16_KINDS
    return "bf16" if has_bf16 else "fp32"


def describe_machine() -> str:
    """Returns a sentence, such as "2 cores of an AMD EPYC (avx2), 24 GiB, no GPU; …"."""
    about = _cpu()
    kind = _cpu_kind(about)
    memory = psutil.virtual_memory().total / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores of {about.get('model name', platform.machine())} ({kind}), "
        f"{memory:.0f} GiB, {gpu}; Python {platform.python_version()}, torch {torch.__version__}; "
        f"commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}"
    )


def _cpu() -> dict[str, str]:
    """What Linux knows of the last core."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        name.strip(): value.strip() for name, _, value in (each.partition(":") for each in lines)
    }


def _cpu_kind(about: dict[str, str]) -> str:
    flags = about.get("flags", "").split()
    return next((each for each in _CPU_KINDS if each in flags), "no avx2")


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    ran = subprocess.run(git, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"
