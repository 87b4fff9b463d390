"""Labels a few images of a plan and forecasts the time that all of it will take."""

import time
from dataclasses import dataclass

import pyarrow as pa
import ray

from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.workers import WholeImageFactory
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.planning.planner import Plan
from pipeline.runtime.machines import Machines
from pipeline.runtime.progress import duration

_SAMPLE_IMAGES = 16
_SAMPLE_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class _Sample:
    images: int
    num_bytes: int
    seconds: float
    errors: int


def forecast(plan: Plan, *, job: LabellingJob) -> str:
    """Returns lines with the plan's units, images, bytes and estimated time.

    The estimate comes from labelling the first images of the plan's first unit.
    """
    if not plan.units:
        return "nothing to do"
    machines = Machines.of_cluster(job.actors)
    take_sample = ray.remote(num_cpus=machines.actor_cpus, num_gpus=machines.actor_gpus)(_sample)
    sample: _Sample = ray.get(take_sample.remote(plan.units[0].table(), job=job, machines=machines))
    if not sample.images:
        return f"units: {len(plan.units):,}\nthe sample holds no image that can be decoded"
    known = plan.num_images
    images = known or round(plan.num_bytes / sample.num_bytes * sample.images)
    rate = sample.images / sample.seconds
    actors = machines.most_actors
    return "\n".join(
        [
            f"units: {len(plan.units):,}",
            f"images: {images:,}" + ("" if known else " (estimated from the sample)"),
            f"bytes: {plan.num_bytes:,}",
            f"sample: {sample.images} images in {sample.seconds:.1f} s, {sample.errors} in error",
            f"forecast: {duration(images / rate / actors)} with {actors} actors "
            f"at {rate:.3g} images/s each, start-up not included",
        ]
    )


def _sample(unit: pa.Table, *, job: LabellingJob, machines: Machines) -> _Sample:
    """Loads and segments the first images of a unit; does not time the very first."""
    factory = WholeImageFactory(settings=job.segmenting)
    segmenter = factory(job.model_files, num_threads=machines.actor_threads)
    loader = UnitLoader(
        storage=job.table.storage, reading=job.reading, processor=job.processor, block_bytes=1
    )
    images = errors = num_bytes = 0
    began = last = None
    for block in loader(unit):
        rows = segmenter(block)
        last = time.monotonic()
        if began is None:
            began = last
            continue
        images += sum(kind == "image" for kind in rows["kind"].to_pylist())
        errors += sum(status == "error" for status in rows["status"].to_pylist())
        num_bytes += pa.compute.sum(rows["bytes_read"]).as_py() or 0
        if images >= _SAMPLE_IMAGES or last - began > _SAMPLE_SECONDS:
            break
    seconds = (last - began) if last is not None and began is not None else 0.0
    return _Sample(images=images, num_bytes=num_bytes, seconds=seconds, errors=errors)
