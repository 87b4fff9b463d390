"""Winograd's convolution for CPUs: 3x3 kernels with a quarter of the multiplications.

`convolutions.py` asks for it. Of each tile of 6x6 pixels come 4x4 outputs: tile and kernel are
evaluated at points in either direction, multiplied there, and interpolated. The products are one
matrix product for each of the 36 pairs of points; what goes in and comes out of them is done by
`winograd_loops.py`. All in float32, whatever the maps are.

Equations: Lavin and Gray 2016, https://arxiv.org/abs/1509.09308 (section 4.3). The points are not
theirs (0, 1, -1, 2, -2) but such that rounding errors are half as large; see Barabasz et al. 2018,
https://arxiv.org/abs/1803.10986. They are six times those of the direct sum: 1e-6 of the largest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import llvmlite.binding
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.autograd.function import once_differentiable

from maskformer.cpu import winograd_loops
from maskformer.cpu.loops import in_parts
from maskformer.cpu.winograd_loops import FAR, NEAR

Maps = Float[Tensor, "batch _ height width"]
Kernels = Float[Tensor, "channels_out channels_in 3 3"]

_OUT, _POINTS = 4, 6

_TILES_AT_ONCE = 256
"""So many that products are fast, and so few that the caches hold them."""
# Where the method begins to pay: what is saved grows with the product of the channels, what the
# transforms cost with their sum.
_LEAST_TILES = 64
_LEAST_CHANNELS = {torch.float32: 128, torch.bfloat16: 64}


def suits(maps: Maps, kernels: Float[Tensor, "_ _ _ _"]) -> bool:
    """Tells whether a stride-1 convolution that keeps the maps' size is faster by this method."""
    if maps.device.type != "cpu" or kernels.shape[2:] != (3, 3):
        return False
    channels_out, channels_in = kernels.shape[:2]
    dtype = _dtype_of_result(maps)
    least = _LEAST_CHANNELS.get(dtype)
    if least is None or (dtype == torch.bfloat16 and _has_fast_bfloat16()):
        return False
    return (
        2 * channels_out * channels_in >= least * (channels_out + channels_in)
        and maps.shape[2] * maps.shape[3] >= _LEAST_TILES * _OUT**2
        and type(maps) is Tensor  # a fake one has no values
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def convolution(maps: Maps, kernels: Kernels, bias: Float[Tensor, " channels_out"] | None) -> Maps:
    """`torch.nn.functional.conv2d` with a padding of 1, for what `suits`."""
    return _Convolution.apply(maps.to(_dtype_of_result(maps)), kernels, bias)


def gradients(
    gradient: Maps, maps: Maps, kernels: Kernels, *, to_maps: bool
) -> tuple[Maps | None, Kernels]:
    """Returns the gradients by the maps, where asked for, and by the kernels."""
    by_maps = _by_maps(gradient, kernels) if to_maps else None
    return by_maps, _by_kernels(gradient, maps).to(kernels.dtype)


def _dtype_of_result(maps: Maps) -> torch.dtype:
    is_autocast = torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if is_autocast else maps.dtype


@cache
def _has_fast_bfloat16() -> bool:
    """Tells whether this CPU multiplies bfloat16 at least twice as fast as float32.

    Intel's AVX512-BF16 does not.
    """
    features, name = llvmlite.binding.get_host_cpu_features(), llvmlite.binding.get_host_cpu_name()
    return any(
        (
            features.get("amx-bf16"),
            features.get("avx512bf16") and name.startswith("znver"),  # AMD's
            features.get("bf16"),  # ARM's
        )
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(maps, kernels)
        at_points = _at_points(kernels, _kernel_matrix())
        return _convolved(maps, at_points.transpose(1, 2), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, kernels = ctx.saved_tensors
        to_maps, to_kernels, to_bias = ctx.needs_input_grad
        return (
            _by_maps(gradient, kernels) if to_maps else None,
            _by_kernels(gradient, maps).to(kernels.dtype) if to_kernels else None,
            gradient.sum((0, 2, 3), dtype=kernels.dtype) if to_bias else None,
        )


def _by_maps(gradient: Maps, kernels: Kernels) -> Maps:
    """Convolves the gradient with the kernels turned around."""
    return _convolved(gradient, _at_points(kernels, _kernel_matrix().flip(1)), None)


def _at_points(
    kernels: Kernels, matrix: Float32[Tensor, "points 9"]
) -> Float32[Tensor, "points channels_out channels_in"]:
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        values = matrix @ kernels.float().reshape(-1, 9).T
    return values.view(-1, *kernels.shape[:2])


def _convolved(
    maps: Maps,
    at_points: Float32[Tensor, "points channels_in channels_out"],
    bias: Float[Tensor, " channels_out"] | None,
) -> Maps:
    channels_in, channels_out = at_points.shape[1:]
    result = torch.empty(
        (len(maps), channels_out, *maps.shape[2:]),
        dtype=maps.dtype,
        memory_format=torch.channels_last,
    )
    tiling = _Tiling.of(maps)
    pixels, outputs = tiling.band(channels_in, around=1), tiling.band(channels_out)
    tiles, products = tiling.points(channels_in), tiling.points(channels_out)
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        # Image by image, so that none depends on what is in the batch beside it.
        for image, planes in zip(result, maps, strict=True):
            for part in tiling.parts():
                part.evaluate(planes, pixels, tiles)
                torch.bmm(part.of(tiles), at_points, out=part.of(products))
                part.interpolate(products, outputs, image, bias)
    return result


def _by_kernels(gradient: Maps, maps: Maps) -> Float32[Tensor, "channels_out channels_in 3 3"]:
    channels_out, channels_in = gradient.shape[1], maps.shape[1]
    tiling = _Tiling.of(maps)
    pixels, slopes = tiling.band(channels_in, around=1), tiling.band(channels_out)
    tiles, spread = tiling.points(channels_in), tiling.points(channels_out)
    sums = torch.zeros(_POINTS**2, channels_out, channels_in)
    with torch.autocast("cpu", enabled=False), torch.no_grad():
        for outward, planes in zip(gradient, maps, strict=True):
            for part in tiling.parts():
                part.evaluate(planes, pixels, tiles)
                part.spread(outward, slopes, spread)
                left, right = part.of(spread).transpose(1, 2), part.of(tiles)
                torch.baddbmm(sums, left, right, out=sums)
        by_kernels = sums.view(_POINTS**2, -1).T @ _kernel_matrix()
    return by_kernels.view(channels_out, channels_in, 3, 3)


@dataclass(frozen=True, kw_only=True)
class _Tiling:
    """The grid of tiles over a map, whose sides need not be multiples of a tile's."""

    rows: int
    columns: int

    @classmethod
    def of(cls, maps: Maps) -> "_Tiling":
        height, width = maps.shape[2:]
        return cls(rows=-(-height // _OUT), columns=-(-width // _OUT))

    def parts(self) -> Iterator["_Part"]:
        for first in range(0, self.rows, self._rows_at_once):
            num_rows = min(self._rows_at_once, self.rows - first)
            yield _Part(top=first * _OUT, num_rows=num_rows, columns=self.columns)

    def band(self, channels: int, *, around: int = 0) -> Float32[Tensor, "_ _ channels"]:
        """Zeros for the pixels of a part, and for some around them."""
        height, width = self._rows_at_once * _OUT, self.columns * _OUT
        return torch.zeros(height + 2 * around, width + 2 * around, channels)

    def points(self, channels: int) -> Float32[Tensor, "tiles points channels"]:
        """Room for a part's values at the points."""
        return torch.empty(self._rows_at_once * self.columns, _POINTS**2, channels)

    @property
    def _rows_at_once(self) -> int:
        return min(self.rows, max(1, _TILES_AT_ONCE // self.columns))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows of tiles that are taken at once."""

    top: int
    """The first row of pixels."""
    num_rows: int
    columns: int

    def of(self, points: Float32[Tensor, "_ points channels"]) -> Float32[Tensor, "points tiles _"]:
        num_tiles = self.num_rows * self.columns
        return points[:num_tiles].view(_POINTS**2, num_tiles, -1)

    def evaluate(self, planes: Tensor, band: Tensor, points: Tensor) -> None:
        self._fill(band, planes, around=1)
        self._run(winograd_loops.evaluate_at_points, band, points)

    def spread(self, planes: Tensor, band: Tensor, points: Tensor) -> None:
        self._fill(band, planes, around=0)
        self._run(winograd_loops.spread, band, points)

    def interpolate(
        self, points: Tensor, band: Tensor, planes: Tensor, bias: Tensor | None
    ) -> None:
        self._run(winograd_loops.interpolate, band, points)
        rows = planes[:, self.top : self.top + self.num_rows * _OUT].permute(1, 2, 0)
        outputs = band[: rows.shape[0], : rows.shape[1]]
        rows.copy_(outputs if bias is None else outputs.add_(bias))

    def _fill(
        self,
        band: Float32[Tensor, "_ _ channels"],
        planes: Float[Tensor, "channels height width"],
        *,
        around: int,
    ) -> None:
        """The part's pixels and some around them; outside of the image is zero."""
        top, end = self.top - around, self.top + self.num_rows * _OUT + around
        rows = planes[:, max(0, top) : end].permute(1, 2, 0)
        before = max(0, -top)
        band[:before] = 0
        band[before + len(rows) :] = 0
        band[before : before + len(rows), around : around + rows.shape[1]] = rows

    def _run(self, loop: Callable[..., None], band: Tensor, points: Tensor) -> None:
        """A loop over rows of tiles, on as many threads as torch has."""
        flat = band.view(-1).numpy(), points.view(-1).numpy()

        def rows(first: int, end: int) -> None:
            for row in range(first, end):
                loop(row, self.num_rows, self.columns, band.shape[2], *flat)

        in_parts(self.num_rows, rows)


@cache
def _kernel_matrix() -> Float32[Tensor, "points 9"]:
    """Gives a kernel's values at the points, divided by what interpolation would divide by."""
    rows = [[1 / (NEAR * FAR) ** 2, 0.0, 0.0]]
    for point, other in ((NEAR, FAR), (FAR, NEAR)):
        scale = 1 / (2 * point**2 * (point**2 - other**2))
        for signed in (point, -point):
            rows.append([scale, scale * signed, scale * signed**2])
    along = torch.tensor([*rows, [0.0, 0.0, 1.0]])
    return torch.kron(along, along)
