"""Makes a sample of a labelled image: decodes and augments it, and keeps the visible masks.

`loading.py` asks for samples in the order of `sampler.py`, in many processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64

from maskformer import IdMap, MaskFormerImageProcessor, MaskRuns, Runs
from pipeline.corpora.decoding import ImageError, decode
from pipeline.datasets.checking import fitted
from pipeline.datasets.dataset import LabelledImage, LabelledImages
from pipeline.datasets.id_maps import count_ids
from pipeline.datasets.target import LabelError
from pipeline.training.augmentation import Grid, View, augment
from pipeline.training.batches import TrainingSample
from pipeline.training.recipes import Augmentation
from pipeline.training.sampler import Mixture, SampleIndex, sample_random
from pipeline.training.settings import TargetSettings
from pipeline.training.targets import TargetMap, TargetRule, target_rule


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Labelled images, with all settings that turn them into samples; travels by value.

    Raises:
        ValueError: the data cannot teach the task, or labels differ.
    """

    dataset: LabelledImages
    augmentation: Augmentation
    processor: MaskFormerImageProcessor
    seed: int
    targets: TargetSettings = field(default_factory=TargetSettings)
    model_labels: tuple[str, ...] | None = None
    """The model's label names by id; None where it has the data's."""
    mixture: Mixture | None = None
    """How often images of each data set are drawn, where several are mixed by weights."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not len(self.dataset):
            raise ValueError(f"{self.dataset.uri} has no images to learn from")
        assert self.rule  # raises its errors here rather than in the first worker

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def rule(self) -> TargetRule:
        """Returns the rule that turns an image's truth into masks to learn."""
        return target_rule(self.dataset, task=self.targets.task, model_labels=self.model_labels)

    def sample(self, epoch: int, index: int) -> TrainingSample:
        """Makes the sample of an image in an epoch, the same in every process and at any time.

        Raises:
            LabelError: image or labels are damaged or do not fit; names the image.
            StorageFault, SourceChanged: the storage failed, or holds another file now.
        """
        return self.augmented(
            self.dataset[index], sample_index=SampleIndex(epoch=epoch, index=index)
        )

    def augmented(self, labelled: LabelledImage, *, sample_index: SampleIndex) -> TrainingSample:
        """Makes the sample of an image that has been read.

        Raises:
            LabelError: as `sample`.
        """
        pixels = self._pixels(labelled)
        fitting = fitted(
            labelled.target,
            size=(pixels.shape[0], pixels.shape[1]),
            photo=lambda: labelled.image,
            max_pixels=self.dataset.reading.max_image_pixels,
        )
        target = self.rule(fitting)
        grid = Grid.whole((target.ids.shape[0], target.ids.shape[1]))
        view = augment(
            View(
                pixels=torch.from_numpy(pixels).permute(2, 0, 1),
                ids=torch.from_numpy(target.ids),
                grid=None if target.masks is None else grid,
            ),
            settings=self.augmentation,
            processor=self.processor,
            label_of=target.label_of,
            random=sample_random(sample_index, seed=self.seed),
        )
        masks, left = _masks_left(view, target=target)
        return TrainingSample(
            image_id=labelled.image.image_id,
            # Copied, since a crop is a view that would carry its whole image along.
            pixels=view.pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1),
            targets=masks,
            class_labels=torch.from_numpy(target.label_of[left]),
            valid=view.ids.contiguous() != 0 if self.targets.ignore_void else None,
        )

    def _pixels(self, labelled: LabelledImage) -> np.ndarray:
        image = labelled.image
        try:
            if image.error is not None:
                raise image.error
            decoded = decode(
                image.data or b"",
                name=image.name,
                max_pixels=self.dataset.reading.max_image_pixels,
            )
        except ImageError as error:
            raise LabelError(f"image {image.image_id}: {error}") from error
        return np.array(decoded.image)


def _masks_left(
    view: View, *, target: TargetMap
) -> tuple[IdMap | MaskRuns, Int64[np.ndarray, " masks"]]:
    """Returns the masks with a pixel in the view, and their ids in the map."""
    if view.grid is None or target.masks is None:
        ids = view.ids.contiguous()
        shown = np.flatnonzero(count_ids(ids.numpy()))
        shown = shown[shown > 0]
        return IdMap(map=ids, ids=torch.from_numpy(shown).to(ids.dtype)), shown

    def of(masks: Sequence[Runs]) -> MaskRuns:
        assert view.grid is not None
        grid = {"rows": view.grid.rows.clone(), "columns": view.grid.columns.clone()}
        return MaskRuns.of(masks, image_height=target.ids.shape[0], **grid)

    everything = of(target.masks)
    left = [mask for mask in range(everything.shape[0]) if everything.shows(mask)]
    return of([target.masks[mask] for mask in left]), np.array(left, np.int64) + 1
