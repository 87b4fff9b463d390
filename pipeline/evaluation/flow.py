"""The flow: labelled images through readers and actors, or a table's rows, to the driver's sums.

The operators up to the rows are those of the labelling flow. Receipts are counted by the images
that they tell of, so that the sums hold each image exactly once, or there are no sums.
"""

import contextlib
import functools
import heapq
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.evaluation.inference_modes import InferenceMode
from pipeline.evaluation.instance_ap import NUM_WHOLE_INSTANCES
from pipeline.evaluation.judging import Judge, Metric
from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.evaluation.predictions import PredictionLoader
from pipeline.evaluation.scoring import Scorer, badness, merge
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.operators import (
    ATTEMPT_TRACKER,
    BoundedLoad,
    MakeSegmenter,
    configure_ray_data,
    make_segmenter,
    receipts,
    segmented,
)
from pipeline.labelling.poison import reason
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.cluster import Machines
from pipeline.storage import StorageFault

_TASK_IMAGES = 64
_ROW_BLOCK_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """What is compared with what, and how."""

    dataset: LabelledImages
    judge: Judge
    num_worst: int

    @property
    def num_images(self) -> int:
        return len(self.dataset)

    @property
    def num_bytes(self) -> int:
        """Not known, and not needed: the images are counted."""
        return 0

    @property
    def scorer(self) -> Scorer:
        return Scorer(dataset=self.dataset, judge=self.judge, num_worst=self.num_worst)


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """What makes the predictions where no table has them."""

    settings: SegmentSettings
    actors: ActorSettings
    processor: MaskFormerImageProcessor
    model_files: ModelFiles
    mode: InferenceMode | None = None
    """At each image; None for once and whole."""

    @property
    def loading_processor(self) -> MaskFormerImageProcessor:
        """Of the pixels that go to the actors: the model's, but where these resize themselves."""
        if self.mode is None:
            return self.processor
        return MaskFormerImageProcessor.from_dict(self.processor.to_dict(), do_resize=False)

    @property
    def make(self) -> MakeSegmenter:
        """What an actor calls."""
        if self.mode is None and self.settings.task == "instance":
            return functools.partial(
                make_segmenter, settings=self.settings, num_whole_instances=NUM_WHOLE_INSTANCES
            )
        if self.mode is None:
            return functools.partial(make_segmenter, settings=self.settings)
        return functools.partial(_make_multi_view_segmenter, settings=self.settings, mode=self.mode)


def _make_multi_view_segmenter(**options: Any) -> Callable[[pa.Table], pa.Table]:
    """A `MultiViewSegmenter`; imports torch only in the actor's own process."""
    from pipeline.evaluation.multi_view_segmenter import MultiViewSegmenter

    return MultiViewSegmenter(**options)


@dataclass
class EvaluationSums:
    """The sums so far; grows while receipts come."""

    metric: Metric
    worst: list[dict[str, Any]] = field(default_factory=list)
    """From the worst on: `index`, `score` and predicted `segments`."""
    num_segments: int = 0
    indices: set[int] = field(default_factory=set)
    """Images that were counted."""


def evaluate_model(
    job: EvaluationJob, *, segmenting: Segmenting, on_progress: Callable[[int, int], None]
) -> EvaluationSums:
    """Segments every image on actors and compares.

    Args:
        on_progress: is told of numbers of images and segments as they are counted.

    Raises:
        LabelError: an image or its labels are no good.
        StorageFault: storage or cluster failed.
    """
    machines = Machines.of_cluster(segmenting.actors)
    processor = segmenting.loading_processor
    block_bytes = machines.block_bytes(processor)
    configure_ray_data(block_bytes=block_bytes)
    loader = ImageLoader(dataset=job.dataset, processor=processor, block_bytes=block_bytes)
    rows = segmented(
        ray.data.from_arrow(list(_index_tasks(len(job.dataset)))),
        load=loader.__call__,
        model=ray.put(dict(segmenting.model_files)),
        make=segmenting.make,
        machines=machines,
        num_images=len(job.dataset),
        attempts=ATTEMPT_TRACKER.remote(),
    )
    return _judged(rows, job=job, num_cpus=machines.stager_cpus, on_progress=on_progress)


def evaluate_rows(
    tasks: Iterable[pa.Table],
    *,
    job: EvaluationJob,
    actors: ActorSettings,
    on_progress: Callable[[int, int], None],
) -> EvaluationSums:
    """Compares the rows of a table, by units; see `predictions.py`.

    Raises:
        LabelError: an image or its labels are no good.
        StorageFault: storage or cluster failed.
    """
    configure_ray_data(block_bytes=_ROW_BLOCK_BYTES)
    loader = PredictionLoader(storage=job.dataset.storage)
    rows = ray.data.from_arrow(list(tasks)).map_batches(
        BoundedLoad(load=loader.__call__, attempts=ATTEMPT_TRACKER.remote()).__call__,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=actors.reader_cpus,
    )
    return _judged(rows, job=job, num_cpus=actors.reader_cpus, on_progress=on_progress)


def _judged(
    rows: "ray.data.Dataset",
    *,
    job: EvaluationJob,
    num_cpus: float,
    on_progress: Callable[[int, int], None],
) -> EvaluationSums:
    scored = rows.map_batches(
        job.scorer.__call__,
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=num_cpus,
    )
    sums = EvaluationSums(metric=job.judge.metric())
    with _cluster_faults(), contextlib.closing(receipts(scored)) as arriving:
        for receipt in arriving:
            take(receipt, sums=sums, num_worst=job.num_worst)
            on_progress(len(receipt["indices"]), receipt["num_segments"])
    missing = len(job.dataset) - len(sums.indices)
    if missing:
        raise StorageFault(f"{missing} images were not reached")
    return sums


def take(receipt: dict[str, Any], *, sums: EvaluationSums, num_worst: int) -> None:
    """Adds what a receipt tells to the sums.

    Raises:
        LabelError, StorageFault: it tells of an error or a fault, or counts an image again.
    """
    if receipt["error"]:
        raise LabelError(receipt["error"])
    if receipt["fault"]:
        raise StorageFault(receipt["fault"])
    indices = set(receipt["indices"])
    if not indices.isdisjoint(sums.indices):
        # Sums cannot be taken apart again.
        raise StorageFault("a task ran twice, and its images were counted twice")
    sums.indices |= indices
    merge(sums.metric, pickle.loads(receipt["sums"]))
    sums.num_segments += receipt["num_segments"]
    sums.worst = heapq.nsmallest(num_worst, [*sums.worst, *receipt["worst"]], key=badness)


def _index_tasks(count: int) -> Iterator[pa.Table]:
    for start in range(0, count, _TASK_IMAGES):
        indices = range(start, min(start + _TASK_IMAGES, count))
        yield pa.table({"index": indices}, schema=INDICES)


@contextlib.contextmanager
def _cluster_faults() -> Iterator[None]:
    """What the cluster did is worth trying again."""
    try:
        yield
    except (LabelError, StorageFault, RayTaskError):
        raise  # the last is a fault in our own code: running it again would not help
    except (RayError, ExecutionTimeoutError) as error:
        raise StorageFault(reason(error)) from error
    except Exception as error:  # Ray Data wraps what its workers raise in classes of its own
        if not isinstance(error.__cause__, RayError):
            raise
        raise StorageFault(reason(error.__cause__)) from error
