"""Post-processing of a whole batch on its device; only numbers of segments and runs come back.

Takes what the model gives for all queries of a batch. The device finds out which queries are kept,
which of them wins each pixel, which become segments and where the runs of each are; nobody waits
for it meanwhile. What the host needs comes back in one transfer, and the host makes COCO's strings
of it. Segments equal those that `panoptic.py`, `instances.py` and `semantic.py` make of each image.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from maskformer.postprocessing.batch_argmax import has_kernels
from maskformer.postprocessing.batch_columns import encode_batch
from maskformer.postprocessing.batch_geometry import BatchGeometry, DeviceSizes
from maskformer.postprocessing.batch_instances import settle_instance
from maskformer.postprocessing.batch_runs import capacity_of, runs_of_batch
from maskformer.postprocessing.batch_settling import (
    SettledBatch,
    settle_panoptic,
    settle_semantic,
)
from maskformer.postprocessing.batch_transfer import BatchTransfer
from maskformer.postprocessing.encoded_segments import EncodedSegments
from maskformer.postprocessing.geometry import HeightWidth
from maskformer.postprocessing.panoptic import PanopticRule

_RUNS_PER_COLUMN = 16.0
"""Of pixels, at first. Photographs have some eight."""

_SPARE = 1.25
"""Room for runs beside those of the batch with most of them."""


class BatchPostprocessor:
    """Post-processes batches for one task. Serves several threads at once."""

    def __init__(
        self,
        task: Literal["panoptic", "instance", "semantic"],
        *,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] = frozenset(),
        uses_kernels: bool | None = None,
    ) -> None:
        """Takes the settings of `panoptic_segmentation`; a semantic batch needs none of them.

        Instances are not fused.

        Args:
            uses_kernels: by default wherever they can run, which is on CUDA with Triton.
        """
        self._task = task
        self._rule = PanopticRule(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            label_ids_to_fuse=frozenset(label_ids_to_fuse),
        )
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
        batch = class_logits, mask_logits, geometry, sizes
        if self._task == "semantic":
            settled = settle_semantic(*batch, uses_kernels=uses_kernels)
        elif self._task == "instance":
            settled = settle_instance(
                *batch,
                threshold=self._rule.threshold,
                mask_threshold=self._rule.mask_threshold,
                overlap_mask_area_threshold=self._rule.overlap_mask_area_threshold,
                uses_kernels=uses_kernels,
            )
        else:
            settled = settle_panoptic(*batch, rule=self._rule, uses_kernels=uses_kernels)
        return PendingSegments(
            self, settled, geometry, sizes, uses_kernels=uses_kernels, started_on=device
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
        settled: SettledBatch,
        geometry: BatchGeometry,
        sizes: DeviceSizes,
        *,
        uses_kernels: bool,
        started_on: torch.device,
    ) -> None:
        self._processor, self._settled, self._geometry = processor, settled, geometry
        self._sizes, self._uses_kernels = sizes, uses_kernels
        is_cuda = started_on.type == "cuda"
        self._stream = torch.cuda.current_stream(started_on) if is_cuda else None
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
        return encode_batch(found, self._geometry)

    @property
    def bytes_back(self) -> int:
        """Returns the size of the transfer to the host."""
        return self._transfer.num_bytes

    def _started_transfer(self, capacity: int) -> BatchTransfer:
        runs = runs_of_batch(
            self._settled.winner,
            self._settled.ids,
            self._geometry,
            self._sizes,
            capacity=capacity,
            uses_kernels=self._uses_kernels,
        )
        return BatchTransfer(runs, self._settled)
