"""Post-processing of a whole batch on its device; only numbers of segments and runs come back.

Takes what the model gives for all queries of a batch. The device finds out which queries are kept,
which of them wins each pixel, which become segments and where the runs of each are; nobody waits
for it meanwhile. What the host needs comes back in one transfer, and the host makes COCO's strings
of it. Segments equal those that `segmentation.py` makes of each image, which says what they are.
"""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int16, Int64
from torch import Tensor

from maskformer.cpu.segment_shapes import pack_runs
from maskformer.postprocessing.batch_argmax import (
    BatchShares,
    KeptMaps,
    argmax_of_batch,
    by_columns,
    has_kernels,
    shares_of_batch,
)
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes
from maskformer.postprocessing.batch_runs import BatchRuns, capacity_of, runs_of_batch
from maskformer.postprocessing.encoded_segments import EncodedSegments
from maskformer.postprocessing.geometry import HeightWidth
from maskformer.postprocessing.segmentation import (
    batch_semantic_scores,
    best_labels,
    semantic_label_sums,
)

_RUNS_PER_COLUMN = 16.0
"""Of pixels, at first. Photographs have some eight."""

_SPARE = 1.25
"""Room for runs beside those of the batch with most of them."""


@dataclass(frozen=True, kw_only=True)
class _Settled:
    """The winner of each pixel of a batch and the segments of its maps, still on the device."""

    winner: Int16[Tensor, " pixels"]
    ids: Int16[Tensor, "batch maps"]
    """The segment of each map, 0 where it is none."""

    labels: Int16[Tensor, "batch maps"]
    scores: Float32[Tensor, "batch maps"]
    won: Tensor
    second: "_SecondLabels | None" = None
    """None where segments are not those of queries."""


@dataclass(frozen=True, kw_only=True)
class _SecondLabels:
    """The best label of each query beside its own, by query: the host puts them in order."""

    labels: Int64[Tensor, "batch queries"]
    scores: Float32[Tensor, "batch queries"]
    """Negative where there is no other label."""

    order: Int64[Tensor, "batch maps"]
    """The query of each map."""


class BatchPostprocessor:
    """Post-processes batches for one task. Serves several threads at once."""

    def __init__(
        self,
        task: Literal["panoptic", "semantic"],
        *,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] = frozenset(),
        uses_kernels: bool | None = None,
    ) -> None:
        """Takes the settings of `panoptic_segmentation`; a semantic batch needs none of them.

        Args:
            uses_kernels: by default wherever they can run, which is on CUDA with Triton.
        """
        self._task = task
        self._threshold, self._mask_threshold = threshold, mask_threshold
        self._overlap = overlap_mask_area_threshold
        self._fused = frozenset(label_ids_to_fuse)
        self._uses_kernels = uses_kernels
        self._runs_per_column = _RUNS_PER_COLUMN

    def prepare(
        self,
        device: torch.device,
        *,
        num_queries: int,
        num_labels: int,
        dtype: torch.dtype = torch.float32,
        is_padded: bool = False,
    ) -> None:
        """Compiles the kernels for such batches, which takes seconds, before the first one comes.

        Where the machine cannot compile them, as without a C compiler, it warns, and plain
        operations do their work from then on.
        """
        if self._uses_kernels is not None or not has_kernels(device):
            return
        sizes: dict[str, Any] = {"target_sizes": [(4, 4)]}
        if is_padded:
            sizes |= {"image_sizes": [(4, 4)], "padded_size": (4, 4)}
        class_logits = torch.zeros(1, num_queries, num_labels + 1, device=device)
        mask_logits = torch.zeros(1, num_queries, 1, 1, device=device, dtype=dtype)
        try:
            self.start(class_logits, mask_logits, **sizes).result()
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # Triton's compilers raise errors of many classes
            warnings.warn(
                f"Triton compiles no kernels here ({type(error).__name__}: {error}); plain "
                "operations post-process instead, more slowly; see that a C compiler is installed",
                stacklevel=2,
            )
            self._uses_kernels = False

    @torch.inference_mode()
    def start(
        self,
        class_logits: Float[Tensor, "batch queries labels_and_null"],
        mask_logits: Float[Tensor, "batch queries height width"],
        *,
        target_sizes: Sequence[HeightWidth],
        image_sizes: Sequence[HeightWidth] | None = None,
        padded_size: HeightWidth | None = None,
    ) -> "PendingSegments":
        """Starts the work on the logits' device, in its current stream, without a wait.

        Args:
            image_sizes: how much of the padded network input is image, for each image; None where
                nothing was padded.
        """
        device = mask_logits.device
        uses_kernels = has_kernels(device) if self._uses_kernels is None else self._uses_kernels
        geometry = BatchGeometry.of(
            mask_logits, target_sizes=target_sizes, image_sizes=image_sizes, padded_size=padded_size
        )
        sizes = geometry.on(device)
        if self._task == "semantic":
            settled = _settled_semantic(
                class_logits, mask_logits, geometry, sizes, uses_kernels=uses_kernels
            )
        else:
            settled = self._settled_panoptic(
                class_logits, mask_logits, geometry, sizes, uses_kernels=uses_kernels
            )
        return PendingSegments(
            self, settled, geometry, sizes, uses_kernels=uses_kernels, started_on=device
        )

    def _settled_panoptic(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        geometry: BatchGeometry,
        sizes: DeviceSizes,
        *,
        uses_kernels: bool,
    ) -> _Settled:
        best = best_labels(class_logits)
        scores = best.scores
        is_kept = (best.labels != class_logits.shape[-1] - 1) & (scores > self._threshold)
        # Kept queries first, in their order, without asking how many there are.
        order = (~is_kept).to(torch.uint8).argsort(dim=1, stable=True)
        kept_scores, kept_labels = scores.gather(1, order), best.labels.gather(1, order)
        maps = mask_logits
        if not geometry.is_padded:
            maps = mask_logits.to(torch.float32, copy=True)
            maps = maps.sigmoid_().mul_(scores[:, :, None, None])
        kept = KeptMaps(
            maps=maps,
            order=order,
            num_kept=is_kept.sum(1),
            scores=kept_scores,
            thresholds=kept_scores * self._mask_threshold,
        )
        found = argmax_of_batch(kept, geometry, sizes, uses_kernels=uses_kernels)
        ids = _segment_ids(
            found.won,
            found.areas,
            is_kept=kept.is_kept,
            labels=kept_labels,
            overlap_mask_area_threshold=self._overlap,
            is_fused=_is_fused(self._fused, class_logits.shape[-1], class_logits.device),
        )
        return _Settled(
            winner=found.winner,
            ids=ids,
            labels=kept_labels.to(torch.int16),
            scores=kept_scores,
            won=found.won,
            second=_SecondLabels(labels=best.second_labels, scores=best.second_scores, order=order),
        )

    def _capacity(self, geometry: BatchGeometry) -> int:
        return capacity_of(geometry, runs_per_column=self._runs_per_column)

    def _learn(self, geometry: BatchGeometry, *, num_runs: int) -> None:
        """Makes room for as many runs in batches to come, and slowly less where there are fewer."""
        needed = _SPARE * num_runs / geometry.num_columns
        self._runs_per_column = max(needed, 0.95 * self._runs_per_column)


class PendingSegments:
    """The segments of a batch that a device is still making."""

    def __init__(
        self,
        processor: BatchPostprocessor,
        settled: _Settled,
        geometry: BatchGeometry,
        sizes: DeviceSizes,
        *,
        uses_kernels: bool,
        started_on: torch.device,
    ) -> None:
        self._processor, self._settled, self._geometry = processor, settled, geometry
        self._sizes, self._uses_kernels = sizes, uses_kernels
        self._stream = torch.cuda.current_stream() if started_on.type == "cuda" else None
        self._transfer = self._started_transfer(processor._capacity(geometry))

    @torch.inference_mode()
    def result(self) -> EncodedSegments:
        """Waits for the device, once, and returns the segments of all images in their order.

        Waits a second time where there are many more runs than in the batches before.
        """
        found = self._transfer.arrived()
        num_runs = int(found.num_runs.sum())
        self._processor._learn(self._geometry, num_runs=num_runs)
        if num_runs > len(found.starts):
            with torch.cuda.stream(self._stream):
                self._transfer = self._started_transfer(num_runs)
            found = self._transfer.arrived()
        return _encoded(found, self._geometry)

    @property
    def bytes_back(self) -> int:
        """Returns the size of the transfer to the host."""
        return self._transfer.num_bytes

    def _started_transfer(self, capacity: int) -> "_Transfer":
        runs = runs_of_batch(
            self._settled.winner,
            self._settled.ids,
            self._geometry,
            self._sizes,
            capacity=capacity,
            uses_kernels=self._uses_kernels,
        )
        return _Transfer(runs, self._settled)


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    """The runs and segments of a batch, in the memory of the host."""

    starts: np.ndarray
    run_ids: np.ndarray
    num_runs: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    won: np.ndarray
    second_labels: np.ndarray | None = None
    second_scores: np.ndarray | None = None
    order: np.ndarray | None = None


class _Transfer:
    """All that the host needs, on its way in one copy."""

    def __init__(self, runs: BatchRuns, settled: _Settled) -> None:
        # Numbers of more bytes come first, so that every array is aligned.
        second = settled.second
        parts: dict[str, Tensor | None] = {
            "second_labels": None if second is None else second.labels,
            "order": None if second is None else second.order,
            "starts": runs.starts,
            "num_runs": runs.num_runs,
            "won": settled.won.to(torch.int32),
            "scores": settled.scores,
            "second_scores": None if second is None else second.scores,
            "run_ids": runs.run_ids,
            "ids": settled.ids,
            "labels": settled.labels,
        }
        self._parts = {name: part for name, part in parts.items() if part is not None}
        packed = torch.cat(
            [part.contiguous().view(torch.uint8).view(-1) for part in self._parts.values()]
        )
        is_cuda = packed.device.type == "cuda"
        self._host = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=is_cuda)
        self._host.copy_(packed, non_blocking=True)
        self.num_bytes, self.num_runs_at_most = packed.numel(), len(runs.starts)
        self._event: torch.cuda.Event | None = None
        if is_cuda:
            # A thread that waits for it sleeps; by default it would keep a core busy.
            self._event = torch.cuda.Event(blocking=True)
            self._event.record()

    def arrived(self) -> _Arrived:
        """Waits for the copy; gives up the interpreter's lock meanwhile."""
        if self._event is not None:
            self._event.synchronize()
        numbers, start, arrays = self._host.numpy(), 0, {}
        for name, part in self._parts.items():
            end = start + part.numel() * part.element_size()
            dtype = _NUMPY[part.dtype]
            arrays[name] = numbers[start:end].view(dtype).reshape(tuple(part.shape))
            start = end
        return _Arrived(**arrays)


_NUMPY = {
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.float32: np.float32,
}


@lru_cache(maxsize=16)
def _is_fused(
    label_ids: frozenset[int], num_labels: int, device: torch.device
) -> Bool[Tensor, " labels"] | None:
    """Tells of each label whether its segments are fused; None where no label's are."""
    if not label_ids:
        return None
    return torch.tensor([label in label_ids for label in range(num_labels)], device=device)


def _segment_ids(
    won: Tensor,
    own: Tensor,
    *,
    is_kept: Bool[Tensor, "batch maps"],
    labels: Int64[Tensor, "batch maps"],
    overlap_mask_area_threshold: float,
    is_fused: Bool[Tensor, " labels"] | None,
) -> Int16[Tensor, "batch maps"]:
    """Returns the segment of each query, 0 where it becomes none, in the order of queries.

    Does what `_settle` of `segmentation.py` does, on the device.
    """
    # In double precision, as Python divides.
    share = won.double() / own.double().clamp(min=1)
    is_segment = is_kept & (won > 0) & (own > 0) & (share >= overlap_mask_area_threshold)
    number = torch.arange(won.shape[1], device=won.device).expand_as(won)
    leader = number
    if is_fused is not None:
        # A fused label's segment is that of the first query that has it.
        shares_segment = is_segment & is_fused[labels]
        first = torch.full((len(won), len(is_fused)), won.shape[1], device=won.device)
        first = first.scatter_reduce(
            1, labels, number.masked_fill(~shares_segment, won.shape[1]), "amin"
        )
        leader = torch.where(shares_segment, first.gather(1, labels), number)
    counted = (is_segment & (leader == number)).cumsum(1)
    return (counted.gather(1, leader) * is_segment).to(torch.int16)


def _settled_semantic(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: BatchGeometry,
    sizes: DeviceSizes,
    *,
    uses_kernels: bool,
) -> _Settled:
    if uses_kernels and not geometry.is_padded:
        scores = batch_semantic_scores(class_logits, mask_logits)
        found = shares_of_batch(scores, geometry, sizes)
    else:
        found = _shares_by_image(class_logits, mask_logits, geometry)
    batch_size, num_labels = found.won.shape
    occurs = found.won > 0
    means = (found.share_sums / found.won).float()
    labels = torch.arange(num_labels, dtype=torch.int16, device=occurs.device)
    return _Settled(
        winner=found.winner,
        ids=(occurs.cumsum(1) * occurs).to(torch.int16),
        labels=labels.expand(batch_size, num_labels),
        scores=means.clamp(max=1.0),
        won=found.won,
    )


def _shares_by_image(
    class_logits: Tensor, mask_logits: Tensor, geometry: BatchGeometry
) -> BatchShares:
    """Scores labels at the size of the padded network input, which takes an image at a time."""
    sums = [
        semantic_label_sums(classes, masks, image)
        for classes, masks, image in zip(class_logits, mask_logits, geometry.images, strict=True)
    ]
    return BatchShares(
        winner=by_columns([each.labels for each in sums]),
        won=torch.stack([each.areas for each in sums]),
        share_sums=torch.stack([each.share_sums for each in sums]),
    )


def _encoded(found: _Arrived, geometry: BatchGeometry) -> EncodedSegments:
    """Makes columns of a batch's segments, and COCO's strings of their runs."""
    images, maps = found.ids.nonzero()
    ids = found.ids[images, maps].astype(np.int64)
    num_segments = found.ids.max(1, initial=0).astype(np.int64)
    segments = (np.cumsum(num_segments) - num_segments)[images] + ids - 1
    total = int(found.num_runs.sum())
    shapes = pack_runs(
        found.starts[:total],
        found.run_ids[:total],
        num_runs=found.num_runs,
        heights=np.array([image.target_size[0] for image in geometry.images], np.int64),
        pixels=geometry.pixels,
        num_segments=num_segments,
    )
    labels = np.empty(int(num_segments.sum()), np.int32)
    labels[segments] = found.labels[images, maps]
    return EncodedSegments.of_columns(
        shapes,
        num_segments=num_segments,
        segment_ids=np.concatenate([np.arange(1, n + 1, dtype=np.int32) for n in num_segments]),
        label_ids=labels,
        scores=_segment_scores(
            segments,
            scores=found.scores[images, maps].astype(np.float64),
            won=found.won[images, maps],
            num_segments=len(labels),
        ),
        **_second_labels(found, images=images, maps=maps, segments=segments),
    )


def _second_labels(
    found: _Arrived,
    *,
    images: Int64[np.ndarray, " members"],
    maps: Int64[np.ndarray, " members"],
    segments: Int64[np.ndarray, " members"],
) -> dict[str, np.ndarray]:
    """Returns the columns of second labels; none where segments are not those of queries."""
    if found.second_labels is None or found.second_scores is None or found.order is None:
        return {}
    # The last one assigned stays: of several queries the first of those with most pixels.
    won = found.won[images, maps]
    last = np.lexsort((-np.arange(len(won)), won))
    member = np.empty(len(np.unique(segments)), np.int64)
    member[segments[last]] = last
    image = images[member]
    query = found.order[image, maps[member]]
    labels, scores = found.second_labels[image, query], found.second_scores[image, query]
    return {
        "second_label_ids": np.where(scores >= 0, labels, -1).astype(np.int32),
        "second_scores": np.where(scores >= 0, scores.astype(np.float64), np.nan),
    }


def _segment_scores(
    segments: Int64[np.ndarray, " members"],
    *,
    scores: Float64[np.ndarray, " members"],
    won: np.ndarray,
    num_segments: int,
) -> Float64[np.ndarray, " segments"]:
    """Returns each segment's score: its query's, or the mean of several, weighted by area."""
    result = np.empty(num_segments, np.float64)
    result[segments] = scores
    members = np.bincount(segments, minlength=num_segments)
    for segment in np.flatnonzero(members > 1).tolist():
        at = segments == segment
        # Added in the order and precision of `panoptic_segmentation`.
        pairs = zip(scores[at].tolist(), won[at].tolist(), strict=True)
        result[segment] = sum(score * area for score, area in pairs) / int(won[at].sum())
    return result
