"""Masks as runs of pixels, drawn and searched in compiled loops.

`criterion/mask_runs.py` says what runs, rows and columns are.
"""

from typing import no_type_check

import numpy as np

from maskformer.cpu.compiled import compiled


@compiled()
@no_type_check
def draw_runs(edges, image_height, rows, columns, plane):
    """Sets the pixels of the mask to 1."""
    for x in range(len(columns)):
        if columns[x] >= 0:
            _draw_column(edges, image_height, rows, columns[x], plane[:, x])


@compiled()
@no_type_check
def first_column(edges, image_height, rows, columns):
    """Returns the first column that has a pixel inside; the number of columns where none has."""
    pixels = np.zeros(len(rows), np.uint8)
    for x in range(len(columns)):
        if columns[x] >= 0 and _draw_column(edges, image_height, rows, columns[x], pixels):
            return x
    return len(columns)


@compiled()
@no_type_check
def _draw_column(edges, image_height, rows, column, pixels):
    """Sets the column's pixels inside the mask to 1; tells whether there are any."""
    found = False
    top = column * image_height
    run = _run_at(edges, top)
    for y in range(len(rows)):
        if rows[y] < 0:
            continue
        run = _run_after(edges, run, top + rows[y])
        if 2 * run == len(edges) or edges[2 * run] >= top + image_height:
            break
        if edges[2 * run] <= top + rows[y]:
            pixels[y] = 1
            found = True
    return found


@compiled()
@no_type_check
def _run_at(edges, pixel):
    """The first run that ends after a pixel; the number of runs where none does."""
    run, after = 0, len(edges) // 2
    while run < after:
        middle = (run + after) // 2
        if edges[2 * middle + 1] <= pixel:
            run = middle + 1
        else:
            after = middle
    return run


@compiled()
@no_type_check
def _run_after(edges, run, pixel):
    """Finds the same run by walking on from an earlier one."""
    while 2 * run < len(edges) and edges[2 * run + 1] <= pixel:
        run += 1
    return run
