"""Mask runs: the masks of one image as runs of pixels, where objects overlap.

One map of ids cannot hold them and a stack of masks takes the image's memory for each. Runs take
memory by the outlines, and a mask is made when pixels are compared, at the size of the comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Int, Int64, UInt8
from torch import Tensor

from maskformer.cpu.run_loops import draw_runs, first_column

_BEYOND = torch.iinfo(torch.int64).max


@dataclass(frozen=True, kw_only=True)
class MaskRuns:
    """Masks by their runs, which go down the columns of an image as COCO's do.

    Pixel (y, x) of a mask shows the image's pixel (rows[y], columns[x]), so that to crop, to mirror
    or to resize changes `rows` and `columns` alone. Both are -1 in padding, which is in no mask;
    the other rows ascend.
    """

    edges: Int64[Tensor, " edges"]
    """Begin and end of each run in turn, ascending in each mask; a pixel is column times
    `image_height` plus row."""
    offsets: Int64[Tensor, " ends"]
    """Where the edges of each mask begin, and where the last ones end."""
    rows: Int64[Tensor, " height"]
    columns: Int64[Tensor, " width"]
    image_height: int
    most_edges: int
    """Of one mask."""

    @classmethod
    def of(
        cls,
        masks: Sequence[Int64[np.ndarray, "_ 2"]],
        *,
        rows: Int64[Tensor, " height"],
        columns: Int64[Tensor, " width"],
        image_height: int,
    ) -> "MaskRuns":
        """Takes runs as `rle_runs` returns them; drops those in columns that are not shown."""
        shown = columns[columns >= 0]
        begin = int(shown.min()) * image_height if len(shown) else 0
        end = (int(shown.max()) + 1) * image_height if len(shown) else 0
        edges = [runs[(runs[:, 1] > begin) & (runs[:, 0] < end)].reshape(-1) for runs in masks]
        lengths = [len(each) for each in edges]
        return cls(
            edges=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *edges])),
            offsets=torch.tensor([0, *np.cumsum(lengths, dtype=np.int64)], dtype=torch.int64),
            rows=rows,
            columns=columns,
            image_height=image_height,
            most_edges=max([0, *lengths]),
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the equivalent stack of masks: (masks, height, width)."""
        return len(self.offsets) - 1, len(self.rows), len(self.columns)

    def each(self, change: Callable[[Tensor], Tensor]) -> "MaskRuns":
        """Applies a change to each tensor, such as a move to a device."""
        return replace(
            self,
            edges=change(self.edges),
            offsets=change(self.offsets),
            rows=change(self.rows),
            columns=change(self.columns),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "MaskRuns":
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def padded(self, size: tuple[int, int]) -> "MaskRuns":
        """Padded below and to the right."""
        _, height, width = self.shape
        return replace(
            self,
            rows=F.pad(self.rows, (0, size[0] - height), value=-1),
            columns=F.pad(self.columns, (0, size[1] - width), value=-1),
        )

    def sampled(
        self, rows: Int64[Tensor, " sampled_height"], columns: Int64[Tensor, " sampled_width"]
    ) -> "MaskRuns":
        """Some rows and some columns of all masks."""
        return replace(self, rows=self.rows[rows], columns=self.columns[columns])

    def expanded(self, chosen: Int[Tensor, " chosen"] | None) -> Bool[Tensor, "_ _ _"]:
        """The masks themselves, all or those chosen by index."""
        if self.edges.device.type == "cpu":
            numbers = range(self.shape[0]) if chosen is None else chosen.tolist()
            planes = np.zeros((len(numbers), *self.shape[1:]), np.uint8)
            for plane, mask in zip(planes, numbers, strict=True):
                self._draw(mask, plane)
            return torch.from_numpy(planes).bool()
        return self.searched(chosen)

    def searched(self, chosen: Int[Tensor, " chosen"] | None) -> Bool[Tensor, "_ _ _"]:
        """`expanded` on any device, without the host waiting for it: a pixel is in a mask where
        an odd number of edges lies before it."""
        begins, lengths = self.offsets[:-1], self.offsets.diff()
        if chosen is not None:
            begins, lengths = begins[chosen], lengths[chosen]
        number = torch.arange(self.most_edges, device=self.edges.device)
        is_edge = number < lengths[:, None]
        # The last place, which is no edge, keeps the reading of missing ones within bounds.
        places = torch.where(is_edge, begins[:, None] + number, len(self.edges))
        edges = F.pad(self.edges, (0, 1))[places].masked_fill(~is_edge, _BEYOND)
        pixels = (self.columns * self.image_height + self.rows[:, None]).flatten()
        before = torch.searchsorted(
            edges, pixels.expand(len(edges), -1).contiguous(), right=True, out_int32=True
        )
        is_image = (self.rows >= 0)[:, None] & (self.columns >= 0)
        return (before & 1).bool().unflatten(1, self.shape[1:]) & is_image

    def plane(self, mask: int) -> UInt8[np.ndarray, "height width"]:
        """Draws one mask on a CPU, 1 inside."""
        plane = np.zeros(self.shape[1:], np.uint8)
        self._draw(mask, plane)
        return plane

    def shows(self, mask: int) -> bool:
        """Tells whether one mask on a CPU has a pixel."""
        return bool(first_column(*self._arrays(mask)) < len(self.columns))

    def _draw(self, mask: int, plane: UInt8[np.ndarray, "height width"]) -> None:
        draw_runs(*self._arrays(mask), plane)

    def _arrays(self, mask: int) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Returns one mask's runs as `cpu/run_loops.py` takes them."""
        begin, end = self.offsets[mask], self.offsets[mask + 1]
        edges = self.edges[begin:end].numpy()
        return edges, self.image_height, self.rows.numpy(), self.columns.numpy()
