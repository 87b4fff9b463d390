"""Plans how the tokens of a map fall into windows, and keeps such plans for maps to come.

`swin.py` uses them. The plan of one image is made on the device from sizes alone, and spread over
the images of a batch. Corpora have photographs of many sizes: what is kept is bounded in bytes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

# What is added to attention between two tokens of a window that are no neighbours in the image. Not
# minus infinity: the published weights have seen this number.
_STRANGERS = -100.0

_MOST_BYTES = 2**28
"""Of all plans together: those of hundreds of shapes, for batches of tens of images."""


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """The windows of one image; those at the edge of a rolled map are apart."""

    inner: Int[Tensor, " inner_places"]
    """For each place of each window the token, or -1 for padding."""
    edge: Int[Tensor, " edge_places"]
    strangers: Float[Tensor, "edge_windows window_places window_places"]
    """For the windows at the edge: what to add to attention between two of their places."""


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """The permutation of a batch's tokens into windows, and its inverse."""

    token_of_place: Int[Tensor, " places"]
    """For each place of each window the token, or one past the last for padding.

    Windows at the edge come last, for all images.
    """
    place_of_token: Int[Tensor, " tokens"]
    strangers: Float[Tensor, "edge_windows window_places window_places"]
    """That of one image: it is the same for all."""


def window_plan(
    batch: int, height: int, width: int, *, window: int, shift: int, device: torch.device
) -> WindowPlan:
    """Returns the plan for a batch of maps of one size."""
    if torch.compiler.is_compiling():  # a compiler makes the plan part of the graph
        return _batch_plan(batch, height * width, _image_plan(height, width, window, shift, device))
    shape = (height, width, window, shift, device)
    of_image = _PLANS.get(shape, lambda: _image_plan(*shape))
    return _PLANS.get((batch, *shape), lambda: _batch_plan(batch, height * width, of_image))


_Plan = TypeVar("_Plan", ImagePlan, WindowPlan)


class PlanCache:
    """Keeps the plans used last, up to a number of bytes in all; threads may share it."""

    def __init__(self, most_bytes: int) -> None:
        self.num_bytes = 0
        self._most_bytes = most_bytes
        self._plans: OrderedDict[Hashable, ImagePlan | WindowPlan] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], _Plan]) -> _Plan:
        """Returns the plan of the key; makes it where it is not kept."""
        with self._lock:
            kept = self._plans.get(key)
            if kept is not None:
                self._plans.move_to_end(key)
                return kept  # type: ignore[return-value]  # a key is of one kind of plan
        plan = make()
        with self._lock:
            if key not in self._plans:
                self._plans[key] = plan
                self.num_bytes += _num_bytes(plan)
            while self.num_bytes > self._most_bytes:
                _, oldest = self._plans.popitem(last=False)
                self.num_bytes -= _num_bytes(oldest)
        return plan


_PLANS = PlanCache(_MOST_BYTES)


def _num_bytes(plan: ImagePlan | WindowPlan) -> int:
    """Counts a plan's tensors; the strangers of a batch belong to the plan of its image."""
    names = [each.name for each in fields(plan)]
    if isinstance(plan, WindowPlan):
        names.remove("strangers")
    return sum(getattr(plan, name).nbytes for name in names)


def _batch_plan(batch: int, num_tokens: int, plan: ImagePlan) -> WindowPlan:
    # Not inference tensors, even when made there: training may meet them later.
    with torch.inference_mode(False), torch.no_grad():
        device = plan.inner.device
        first = torch.arange(batch, device=device)[:, None] * num_tokens
        tokens = torch.cat(
            [
                torch.where(part < 0, batch * num_tokens, part + first).flatten()
                for part in (plan.inner, plan.edge)
            ]
        )
        places = torch.arange(tokens.shape[0], device=device)
        back = torch.zeros(batch * num_tokens + 1, dtype=torch.long, device=device)
        back = back.scatter(0, tokens, places)[:-1]
        return WindowPlan(token_of_place=tokens, place_of_token=back, strangers=plan.strangers)


def _image_plan(
    height: int, width: int, window: int, shift: int, device: torch.device
) -> ImagePlan:
    with torch.inference_mode(False), torch.no_grad():
        # Not minus the quotient of minus: integers of ONNX are divided towards zero.
        rows, columns = (height + window - 1) // window, (width + window - 1) // window
        y = torch.arange(rows * window, device=device)
        x = torch.arange(columns * window, device=device)
        source_y, source_x = y.roll(-shift), x.roll(-shift)
        token = source_y[:, None] * width + source_x
        token = token.masked_fill((source_y[:, None] >= height) | (source_x >= width), -1)
        token = _cut(token, window)

        inner, edge = _inner_and_edge(rows, columns, shift, device)

        region = _cut(_regions(y, window, shift)[:, None] * 3 + _regions(x, window, shift), window)
        region = region[edge]
        strangers = (region[:, :, None] != region[:, None, :]) * _STRANGERS
        return ImagePlan(
            inner=token[inner].flatten(), edge=token[edge].flatten(), strangers=strangers
        )


def _cut(grid: Tensor, window: int) -> Int[Tensor, "windows places"]:
    rows, columns = grid.shape[0] // window, grid.shape[1] // window
    return grid.view(rows, window, columns, window).transpose(1, 2).reshape(-1, window * window)


def _inner_and_edge(
    rows: int, columns: int, shift: int, device: torch.device
) -> tuple[Int[Tensor, " inner_windows"], Int[Tensor, " edge_windows"]]:
    """Returns the windows that need no mask of their own, and those at the edge of a rolled map."""
    every = torch.arange(rows * columns, device=device)
    if not shift:
        return every, every[:0]
    if torch.compiler.is_exporting():
        # A graph for maps of any size has one kind of window: its exporter reasons of products.
        return every[:0], every
    grid = every.view(rows, columns)
    return grid[:-1, :-1].flatten(), torch.cat([grid[:-1, -1], grid[-1]])


def _regions(axis: Int[Tensor, " n"], window: int, shift: int) -> Int[Tensor, " n"]:
    """Numbers three strips of the rolled axis: untouched, cut by the roll, wrapped around."""
    length = axis.shape[0]
    return (axis >= length - window).long() + (axis >= length - shift).long()
