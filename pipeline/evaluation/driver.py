"""Drives an evaluation on Ray Data: labelled images, or a table's rows, to sums over all images.

Images go through the operators that labelling uses (`labelling/driving/operators.py`). Small tasks
score the rows, and the driver adds up their receipts: each image counts once, or there are no sums.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

from maskformer import MaskFormerImageProcessor
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import LabelError
from pipeline.evaluation.inference_modes import InferenceMode
from pipeline.evaluation.instance_ap import NUM_WHOLE_INSTANCES
from pipeline.evaluation.judging import Judge
from pipeline.evaluation.loading import INDICES, ImageLoader
from pipeline.evaluation.predictions import PredictionLoader
from pipeline.evaluation.scoring import EvaluationSums, Scorer
from pipeline.labelling.driving.operators import (
    configure_ray_data,
    receipts,
    segmented,
    start_attempt_tracker,
)
from pipeline.labelling.driving.workers import (
    BlockSegmenter,
    BoundedLoad,
    SegmenterFactory,
    WholeImageFactory,
)
from pipeline.labelling.failures.poison import reason
from pipeline.labelling.model import ModelFiles
from pipeline.labelling.settings import SegmentSettings
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.storage import StorageFault

_TASK_IMAGES = 64
_ROW_BLOCK_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """The labelled images of an evaluation, and how predictions of them are judged."""

    dataset: LabelledImages
    judge: Judge
    num_worst: int

    @property
    def num_images(self) -> int:
        return len(self.dataset)

    @property
    def num_bytes(self) -> int:
        """Returns 0: progress is shown by images, whose number is known."""
        return 0

    @property
    def scorer(self) -> Scorer:
        return Scorer(dataset=self.dataset, judge=self.judge, num_worst=self.num_worst)


@dataclass(frozen=True, kw_only=True)
class Segmenting:
    """The model that makes the predictions, where no table has them."""

    settings: SegmentSettings
    actors: ActorSettings
    processor: MaskFormerImageProcessor
    model_files: ModelFiles
    mode: InferenceMode | None = None
    """Sizes or windows in which each image is seen; None for once and whole."""

    @property
    def loading_processor(self) -> MaskFormerImageProcessor:
        """Returns the processor for reading tasks, which leave resizing to the actors in a mode."""
        if self.mode is None:
            return self.processor
        return MaskFormerImageProcessor.from_dict(self.processor.to_dict(), do_resize=False)

    @property
    def factory(self) -> SegmenterFactory:
        """Returns the factory of the actors' segmenters."""
        if self.mode is not None:
            return MultiViewFactory(settings=self.settings, mode=self.mode)
        num_whole = NUM_WHOLE_INSTANCES if self.settings.task == "instance" else None
        return WholeImageFactory(settings=self.settings, num_whole_instances=num_whole)


@dataclass(frozen=True, kw_only=True)
class MultiViewFactory:
    """Builds a `MultiViewSegmenter` in an actor's process, which alone imports torch."""

    settings: SegmentSettings
    mode: InferenceMode

    def __call__(self, model_files: ModelFiles, *, num_threads: int | None) -> BlockSegmenter:
        from pipeline.evaluation.multi_view_segmenter import MultiViewSegmenter

        return MultiViewSegmenter(
            model_files, settings=self.settings, mode=self.mode, num_threads=num_threads
        )


def evaluate_model(
    job: EvaluationJob, *, segmenting: Segmenting, on_progress: Callable[[int, int], None]
) -> EvaluationSums:
    """Segments every image on actors and scores the segments.

    Args:
        on_progress: is called with the numbers of images and segments of each receipt.

    Raises:
        LabelError: an image or its labels are wrong.
        StorageFault: storage or cluster failed.
        ValueError: the actors have GPUs, which the engine cannot use.
    """
    machines = Machines.of_cluster(segmenting.actors)
    segmenting.settings.check_actors(actor_gpus=machines.actor_gpus)
    processor = segmenting.loading_processor
    block_bytes = machines.block_bytes(processor)
    configure_ray_data(block_bytes=block_bytes)
    loader = ImageLoader(dataset=job.dataset, processor=processor, block_bytes=block_bytes)
    rows = segmented(
        ray.data.from_arrow(list(_index_tasks(len(job.dataset)))),
        load=loader.__call__,
        model=ray.put(dict(segmenting.model_files)),
        factory=segmenting.factory,
        machines=machines,
        num_images=len(job.dataset),
        attempts=start_attempt_tracker(),
    )
    return _summed(rows, job=job, num_cpus=machines.stager_cpus, on_progress=on_progress)


def evaluate_rows(
    tasks: Iterable[pa.Table],
    *,
    job: EvaluationJob,
    actors: ActorSettings,
    on_progress: Callable[[int, int], None],
) -> EvaluationSums:
    """Scores the rows of a table, one unit a task; see `predictions.py`.

    Raises:
        LabelError: an image or its labels are wrong.
        StorageFault: storage or cluster failed.
    """
    configure_ray_data(block_bytes=_ROW_BLOCK_BYTES)
    loader = PredictionLoader(storage=job.dataset.storage)
    reader_cpus = actors.reader_cpus_beside(actor_gpus=0.0)
    rows = ray.data.from_arrow(list(tasks)).map_batches(
        BoundedLoad(load=loader.__call__, attempts=start_attempt_tracker()).__call__,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=reader_cpus,
    )
    return _summed(rows, job=job, num_cpus=reader_cpus, on_progress=on_progress)


def _summed(
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
            sums.add(receipt, num_worst=job.num_worst)
            on_progress(len(receipt["indices"]), receipt["num_segments"])
    missing = len(job.dataset) - len(sums.indices)
    if missing:
        raise StorageFault(f"{missing} images were lost, with the processes that worked on them")
    return sums


def _index_tasks(count: int) -> Iterator[pa.Table]:
    for start in range(0, count, _TASK_IMAGES):
        indices = range(start, min(start + _TASK_IMAGES, count))
        yield pa.table({"index": indices}, schema=INDICES)


@contextlib.contextmanager
def _cluster_faults() -> Iterator[None]:
    """Raises failures of the cluster as StorageFault: the same command may work next time."""
    try:
        yield
    except (LabelError, StorageFault, RayTaskError):
        raise  # RayTaskError is an error of our own code, which would come again
    except (RayError, ExecutionTimeoutError) as error:
        raise StorageFault(reason(error)) from error
    except Exception as error:  # Ray Data wraps its workers' errors in classes of its own
        if not isinstance(error.__cause__, RayError):
            raise
        raise StorageFault(reason(error.__cause__)) from error
