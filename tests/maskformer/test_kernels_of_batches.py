"""Kernels of post-processing compile for an H100, ahead of time: no GPU is needed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maskformer.postprocessing import batch_kernels, instance_kernels

SIZES = {"sizes": "*i64"}
WORDS = {"num_columns": 100, "bits_of_word": instance_kernels.BITS}
RESIZED = {"scales": "*fp32", "map_height": "i32", "map_width": "i32", "num_planes": "i32"}


def compile_for_the_h100(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], *, options: dict[str, Any]
) -> Any:
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def assert_neither_spills_nor_fuses(compiled: Any, *, folder: Path) -> None:
    """A fused multiplication would round once instead of twice."""
    assert "fma.rn.f32" not in compiled.asm["ptx"]
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run(
        [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    assert "STACK:0" in usage
    assert "LOCAL:0" in usage


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("is_padded", "has_shares"), [(False, False), (True, False), (False, True)]
)
def test_the_kernel_of_winners(tmp_path, dtype, is_padded, has_shares):
    types = {
        "maps": f"*{dtype}", "order": "*i64", "num_maps": "*i64", "weights": "*fp32",
        "thresholds": "*fp32", "totals": "*fp32", "winner": "*i16", "won": "*i32",
        "areas": "*i32", "share_sums": "*fp64",
    }  # fmt: skip
    constants = {"is_padded": is_padded, "has_shares": has_shares, "block": batch_kernels.BLOCK}
    compiled = compile_for_the_h100(
        batch_kernels.resized_argmax,
        types | SIZES | RESIZED,
        {"num_columns": 100, **constants},
        options=batch_kernels.OPTIONS,
    )
    assert_neither_spills_nor_fuses(compiled, folder=tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("is_padded", [False, True], ids=["stretched", "padded"])
def test_the_kernel_of_what_covers_a_pixel(tmp_path, dtype, is_padded):
    types = {
        "maps": f"*{dtype}", "queries": "*i64", "num_candidates": "*i64", "covers": "*i32",
        "areas": "*i32", "logit": "fp32", "num_pixels": "i32",
    }  # fmt: skip
    compiled = compile_for_the_h100(
        instance_kernels.note_covers,
        types | SIZES | RESIZED,
        {"is_padded": is_padded, "block": batch_kernels.BLOCK, **WORDS},
        options=batch_kernels.OPTIONS,
    )
    assert_neither_spills_nor_fuses(compiled, folder=tmp_path)


def test_the_kernel_that_places_instances(tmp_path):
    types = {
        "covers": "*i32", "needed": "*i32", "num_candidates": "*i64", "owner": "*i16",
        "free": "*i32", "num_pixels": "i32",
    }  # fmt: skip
    compiled = compile_for_the_h100(
        instance_kernels.place,
        types | SIZES,
        {"block": instance_kernels.PLACE_BLOCK, **WORDS},
        options=instance_kernels.PLACE_OPTIONS,
    )
    assert_neither_spills_nor_fuses(compiled, folder=tmp_path)


@pytest.mark.parametrize(
    ("kernel", "types"),
    [
        (batch_kernels.count_runs, {"counts": "*i32"}),
        (
            batch_kernels.write_runs,
            {"ends": "*i32", "starts": "*i32", "run_ids": "*i16", "capacity": "i32"},
        ),
    ],
    ids=["count", "write"],
)
def test_the_kernels_of_runs(tmp_path, kernel, types):
    compiled = compile_for_the_h100(
        kernel,
        {"winner": "*i16", "ids": "*i16"} | SIZES | types,
        {"num_columns": 100, "block": batch_kernels.BLOCK},
        options=batch_kernels.OPTIONS,
    )
    assert_neither_spills_nor_fuses(compiled, folder=tmp_path)
