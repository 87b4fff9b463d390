"""What a figure is of: the machine, the libraries and the state of the project."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
_CPU_KINDS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def describe_machine() -> str:
    """Returns a sentence, such as "2 cores of an AMD EPYC (avx2), 24 GiB, no GPU; …"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    about = {
        name.strip(): value.strip() for name, _, value in (each.partition(":") for each in lines)
    }
    flags = about.get("flags", "").split()
    kind = next((each for each in _CPU_KINDS if each in flags), "no avx2")
    memory = psutil.virtual_memory().total / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores of {about.get('model name', platform.machine())} ({kind}), "
        f"{memory:.0f} GiB, {gpu}; Python {platform.python_version()}, torch {torch.__version__}; "
        f"commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}"
    )


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    ran = subprocess.run(git, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"
