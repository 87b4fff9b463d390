"""The transforms of Winograd's convolution in compiled loops: pixels to values at points, and back.

`winograd.py` runs them, a row of tiles at a time, in the cache of a core. Each goes first along one
direction and then along the other. All arrays are flat, and places in them are numbers: views would
be counted, and a loop over several arrays is done in vectors only where few of them could overlap.
"""

from typing import no_type_check

import numpy as np

from maskformer.cpu.compiled import compiled

NEAR, FAR = 5 / 8, 3 / 2
"""The points are 0, these, their negatives, and infinity."""

# Powers of the points, all of them exact in float32.
_ONE = np.float32(1)
_N, _N2, _N3 = (np.float32(NEAR**power) for power in (1, 2, 3))
_F, _F2, _F3 = (np.float32(FAR**power) for power in (1, 2, 3))
_N2F2, _N2_AND_F2 = _N2 * _F2, _N2 + _F2

# Long enough that starting a loop pays, short enough that the data between two stays in cache.
_BLOCK = 1024

_fast = compiled(error_model="numpy", fastmath={"contract", "nsz"})


@_fast
@no_type_check
def evaluate_at_points(row, num_rows, columns, channels, pixels, points):
    """Evaluates the pixels of a row of tiles at the points."""
    line = (4 * columns + 2) * channels
    plane = num_rows * columns * channels
    lines = np.empty(6 * line, np.float32)
    spare = np.empty(4 * _BLOCK, np.float32)
    _to_values(pixels, 4 * row * line, line, lines, 0, line, line, spare)
    for column in range(columns):
        tile = (row * columns + column) * channels
        for u in range(6):
            start = u * line + 4 * column * channels
            _to_values(lines, start, channels, points, 6 * u * plane + tile, plane, channels, spare)


@_fast
@no_type_check
def interpolate(row, num_rows, columns, channels, pixels, points):
    """A row of tiles of outputs from their values at the points."""
    line = 4 * columns * channels
    tiles = columns * channels
    plane = num_rows * tiles
    lines = np.empty(4 * 6 * tiles, np.float32)
    spare = np.empty(4 * _BLOCK, np.float32)
    for v in range(6):
        start = v * plane + row * tiles
        _from_values(points, start, 6 * plane, lines, v * tiles, 6 * tiles, tiles, spare)
    for y in range(4):
        for column in range(columns):
            start, end = 6 * y * tiles + column * channels, column * 4 * channels
            end += (4 * row + y) * line
            _from_values(lines, start, tiles, pixels, end, channels, channels, spare)


@_fast
@no_type_check
def spread(row, num_rows, columns, channels, pixels, points):
    """The gradients of a row of tiles at the points: `interpolate`, transposed."""
    line = 4 * columns * channels
    tiles = columns * channels
    plane = num_rows * tiles
    lines = np.empty(4 * 6 * tiles, np.float32)
    spare = np.empty(4 * _BLOCK, np.float32)
    for y in range(4):
        for column in range(columns):
            start = (4 * row + y) * line + 4 * column * channels
            end = 6 * y * tiles + column * channels
            _spread_values(pixels, start, channels, lines, end, tiles, channels, spare)
    for v in range(6):
        end = v * plane + row * tiles
        _spread_values(lines, v * tiles, 6 * tiles, points, end, 6 * plane, tiles, spare)


@_fast
@no_type_check
def _to_values(d, i, step, p, k, step_out, count, spare):
    for first in range(0, count, _BLOCK):
        n = min(_BLOCK, count - first)
        d0, p0 = i + first, k + first
        d1, d2, d3, d4 = d0 + step, d0 + 2 * step, d0 + 3 * step, d0 + 4 * step
        p1, p2, p3, p4 = p0 + step_out, p0 + 2 * step_out, p0 + 3 * step_out, p0 + 4 * step_out
        _weigh(d, d4, _ONE, d, d2, -_F2, spare, 0, n)
        _weigh(d, d3, _N, d, d1, -_N * _F2, spare, _BLOCK, n)
        _weigh(d, d4, _ONE, d, d2, -_N2, spare, 2 * _BLOCK, n)
        _weigh(d, d3, _F, d, d1, -_F * _N2, spare, 3 * _BLOCK, n)
        _weigh_three(d, d0, _N2F2, d, d2, -_N2_AND_F2, d, d4, p, p0, n)
        _sum_and_difference(spare, 0, _BLOCK, p, p1, p2, n)
        _sum_and_difference(spare, 2 * _BLOCK, 3 * _BLOCK, p, p3, p4, n)
        _weigh_three(d, d1, _N2F2, d, d3, -_N2_AND_F2, d, d4 + step, p, p4 + step_out, n)


@_fast
@no_type_check
def _from_values(p, k, step, o, i, step_out, count, spare):
    for first in range(0, count, _BLOCK):
        n = min(_BLOCK, count - first)
        p0, o0 = k + first, i + first
        p1, p2, p3, p4 = p0 + step, p0 + 2 * step, p0 + 3 * step, p0 + 4 * step
        even_near, odd_near, even_far, odd_far = 0, _BLOCK, 2 * _BLOCK, 3 * _BLOCK
        _sum_and_difference(p, p1, p2, spare, even_near, odd_near, n)
        _sum_and_difference(p, p3, p4, spare, even_far, odd_far, n)
        _weigh_three(spare, even_near, _ONE, spare, even_far, _ONE, p, p0, o, o0, n)
        _weigh(spare, odd_near, _N, spare, odd_far, _F, o, o0 + step_out, n)
        _weigh(spare, even_near, _N2, spare, even_far, _F2, o, o0 + 2 * step_out, n)
        end = o0 + 3 * step_out
        _weigh_three(spare, odd_near, _N3, spare, odd_far, _F3, p, p4 + step, o, end, n)


@_fast
@no_type_check
def _spread_values(o, i, step, p, k, step_out, count, spare):
    for first in range(0, count, _BLOCK):
        n = min(_BLOCK, count - first)
        o0, p0 = i + first, k + first
        o1, o2, o3 = o0 + step, o0 + 2 * step, o0 + 3 * step
        p1, p2, p3, p4 = p0 + step_out, p0 + 2 * step_out, p0 + 3 * step_out, p0 + 4 * step_out
        _weigh(o, o0, _ONE, o, o2, _N2, spare, 0, n)
        _weigh(o, o1, _N, o, o3, _N3, spare, _BLOCK, n)
        _weigh(o, o0, _ONE, o, o2, _F2, spare, 2 * _BLOCK, n)
        _weigh(o, o1, _F, o, o3, _F3, spare, 3 * _BLOCK, n)
        _copy(o, o0, p, p0, n)
        _sum_and_difference(spare, 0, _BLOCK, p, p1, p2, n)
        _sum_and_difference(spare, 2 * _BLOCK, 3 * _BLOCK, p, p3, p4, n)
        _copy(o, o3, p, p4 + step_out, n)


# Where a place can be negative it counts from the end, which is looked at for each number.
@_fast
@no_type_check
def _weigh(a, i, weight_a, b, j, weight_b, out, k, n):
    i, j, k = np.uintp(i), np.uintp(j), np.uintp(k)
    for c in range(np.uintp(n)):
        out[k + c] = weight_a * a[i + c] + weight_b * b[j + c]


@_fast
@no_type_check
def _weigh_three(a, i, weight_a, b, j, weight_b, more, m, out, k, n):
    i, j, k, m = np.uintp(i), np.uintp(j), np.uintp(k), np.uintp(m)
    for c in range(np.uintp(n)):
        out[k + c] = weight_a * a[i + c] + weight_b * b[j + c] + more[m + c]


@_fast
@no_type_check
def _sum_and_difference(a, i, j, out, k, m, n):
    i, j, k, m = np.uintp(i), np.uintp(j), np.uintp(k), np.uintp(m)
    for c in range(np.uintp(n)):
        out[k + c] = a[i + c] + a[j + c]
        out[m + c] = a[i + c] - a[j + c]


@_fast
@no_type_check
def _copy(a, i, out, k, n):
    i, k = np.uintp(i), np.uintp(k)
    for c in range(np.uintp(n)):
        out[k + c] = a[i + c]
