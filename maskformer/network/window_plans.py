"""Plans how the tokens of a map fall into windows, and keeps such plans for maps to come.

`swin.py` uses them. The plan of one image is made on the device from sizes alone, and spread over
the images of a batch. Corpora have photographs of many sizes: what is kept is bounded in bytes.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from maskformer.device_copies import copied_to

# What is added to attention between two tokens of a window that are no neighbours in the image. Not
# minus infinity: the published weights have seen this number.
_STRANGERS = -100.0

ALIGNED = 8
"""CUDA's kernels of attention copy a bias at each call whose rows are no multiple of this."""

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


@dataclass(frozen=True, kw_only=True)
class Gather:
    """The tokens of one image by their places in windows."""

    token_of_place: Int[Tensor, " places"]
    """For padding any token."""
    padding: Int[Tensor, " padded_places"]
    """The places of padding."""


@dataclass(frozen=True, kw_only=True)
class GatherPlan:
    """The windows of one image, for batches whose tokens are gathered image by image.

    Nothing in it depends on the number of images: a batch of a shape that is known has its plan.
    """

    windows: tuple[Gather, ...]
    """Those inside, then those at the edge of a rolled map; none is empty."""
    place_of_token: Int[Tensor, " tokens"]
    """Among the places of all windows in this order."""
    strangers: Float[Tensor, "1 edge_windows 1 window_places aligned_places"] | None
    """As in `ImagePlan`, with zeros behind rows of other lengths; None where no window has any."""

    @property
    def num_places(self) -> int:
        return sum(len(each.token_of_place) for each in self.windows)


def window_plan(
    batch: int, height: int, width: int, *, window: int, shift: int, device: torch.device
) -> WindowPlan:
    """Returns the plan for a batch of maps of one size."""
    if torch.compiler.is_compiling():  # a compiler makes the plan part of the graph
        return _batch_plan(batch, height * width, _image_plan(height, width, window, shift, device))
    shape = (height, width, window, shift, device)
    of_image = _PLANS.get(shape, lambda: _image_plan(*shape))
    return _PLANS.get((batch, *shape), lambda: _batch_plan(batch, height * width, of_image))


def gather_plan(
    height: int, width: int, *, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> GatherPlan:
    """Returns the plan for maps of one size, with strangers in `dtype`; does not wait for it."""
    shape = (height, width, window, shift)
    return _PLANS.get((*shape, device, dtype), lambda: _gather_plan(*shape, device, dtype))


_Plan = TypeVar("_Plan", ImagePlan, WindowPlan, GatherPlan)


_AnyPlan: TypeAlias = ImagePlan | WindowPlan | GatherPlan


class PlanCache:
    """Keeps the plans used last, up to a number of bytes in all; threads may share it."""

    def __init__(self, most_bytes: int) -> None:
        self.num_bytes = 0
        self._most_bytes = most_bytes
        self._plans: OrderedDict[Hashable, _AnyPlan] = OrderedDict()
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


def _num_bytes(plan: _AnyPlan) -> int:
    """Counts a plan's tensors; the strangers of a batch belong to the plan of its image."""
    if isinstance(plan, GatherPlan):
        parts = [part for each in plan.windows for part in vars(each).values()]
        parts += [plan.place_of_token, plan.strangers]
    else:
        of_another = {"strangers"} if isinstance(plan, WindowPlan) else set()
        parts = [part for name, part in vars(plan).items() if name not in of_another]
    return sum(part.nbytes for part in parts if part is not None)


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


def _gather_plan(
    height: int, width: int, window: int, shift: int, device: torch.device, dtype: torch.dtype
) -> GatherPlan:
    # On the CPU, which knows how many places are padding without a wait.
    plan = _image_plan(height, width, window, shift, torch.device("cpu"))
    with torch.inference_mode(False), torch.no_grad():
        parts = [part for part in (plan.inner, plan.edge) if len(part)]
        gathers = [
            Gather(
                token_of_place=copied_to(device, part.clamp(min=0)),
                padding=copied_to(device, (part < 0).nonzero().flatten()),
            )
            for part in parts
        ]
        tokens = torch.cat(parts)
        places = (tokens >= 0).nonzero().flatten()
        strangers = None
        if len(plan.strangers):
            rows = functional.pad(plan.strangers, (0, -(window**2) % ALIGNED)).to(dtype)
            strangers = copied_to(device, rows[None, :, None])
        return GatherPlan(
            windows=tuple(gathers),
            place_of_token=copied_to(device, places[tokens[places].argsort()]),
            strangers=strangers,
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
