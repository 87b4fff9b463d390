"""Generates noise of all scales, once for each process, and cuts pieces from it."""

from functools import cache
from random import Random

import numpy as np
from jaxtyping import Float32, Int8, Num

_SIDE = 1024


def look_up(
    x: Num[np.ndarray, "*shape"], y: Num[np.ndarray, "*shape"], *, roughness: float
) -> Float32[np.ndarray, "*shape"]:
    """Returns noise of unit variance at points of a plane; it repeats after 1024 both ways."""
    mask = _SIDE - 1
    columns, rows = x.astype(np.int32) & mask, y.astype(np.int32) & mask
    return _tile(roughness).ravel()[rows * _SIDE + columns]


def cut(random: Random, size: tuple[int, int], *, roughness: float) -> Float32[np.ndarray, "h w"]:
    """Returns a random piece of noise."""
    return _piece(random, _tile(roughness), size=size)


def grain(random: Random, size: tuple[int, int]) -> Int8[np.ndarray, "h w 3"]:
    """Returns a sensor's noise, with a deviation of 32."""
    return _piece(random, _coloured_tile(), size=size)


def profile(random: Random, width: int, *, roughness: float) -> Float32[np.ndarray, " width"]:
    """Returns a line of noise, as of a ridge of hills."""
    columns = np.arange(width) * 2 + random.randrange(_SIDE)
    return look_up(columns, np.full(width, random.randrange(_SIDE)), roughness=roughness)


@cache
def _tile(roughness: float) -> Float32[np.ndarray, "side side"]:
    """Generates noise whose power falls with frequency: 0 is white, 2 looks like clouds."""
    generator = np.random.default_rng(7)
    spectrum = np.fft.rfft2(generator.standard_normal((_SIDE, _SIDE)))
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.rfftfreq(_SIDE)[None])
    # With waves longer than a quarter of the tile its repetition would show.
    frequency = np.maximum(frequency, 4 / _SIDE)
    spectrum /= frequency ** (roughness / 2 + 0.5)
    spectrum[0, 0] = 0
    tile = np.fft.irfft2(spectrum, s=(_SIDE, _SIDE))
    return (tile / tile.std()).astype(np.float32)


@cache
def _coloured_tile() -> Int8[np.ndarray, "side side 3"]:
    values = np.random.default_rng(8).standard_normal((_SIDE, _SIDE, 3)) * 32
    return values.clip(-127, 127).astype(np.int8)


def _piece(random: Random, tile: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if height > _SIDE or width > _SIDE:
        repeats = -(-height // _SIDE), -(-width // _SIDE), *(1 for _ in tile.shape[2:])
        tile = np.tile(tile, repeats)
    top, left = (random.randint(0, tile.shape[axis] - size[axis]) for axis in (0, 1))
    return tile[top : top + height, left : left + width]
