"""A run whose actors have GPUs leaves the table that CPUs make in this process.

Sub-drivers that share the GPU do each unit once. Ray is told of a GPU that is not there: readers
work for one, actors compute on the CPU.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from corpora import picture, put, tar
from labelled_by_hand import label_by_hand
from ray_here import ray_here
from simulated_fleet import FleetJob, drawn_units, fleet_job, image_ids
from specs import panoptic_spec

from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.driving import ray_executor
from pipeline.labelling.driving.driver import run_units
from pipeline.labelling.driving.labelling_job import LabellingJob
from pipeline.labelling.driving.sub_drivers import SharedPass
from pipeline.labelling.driving.workers import LoadUnit
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import UnitSettings, plan_corpus
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.machines import Machines
from pipeline.runtime.node_groups import NodeGroup
from pipeline.runtime.run_stats import RunStats
from pipeline.storage import Storage
from pipeline.table.store import TableStore, images, segments

SPEC = panoptic_spec("road", "sky", "tree", "car", threshold=0.3, overlap_mask_area_threshold=0.1)
SEGMENTING = SegmentSettings(threshold=0.3, overlap_mask_area_threshold=0.1)
SIZES = [(36, 48), (48, 36), (36, 48), (60, 60), (90, 120), (36, 48), (400, 300)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A node with a GPU, as far as Ray knows."""
    with ray_here(__name__, "simulated_fleet", "free_segmenter", "specs", num_gpus=1):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Two units of a few shapes, with an image that is none and one that is cut off."""
    pictures = [
        (f"{n:02}.jpg", picture(n, height=height, width=width, format="JPEG"))
        for n, (height, width) in enumerate(SIZES * 3)
    ]
    pictures[4] = ("04.jpg", b"no image")
    cut = {"b/z.jpg": picture(1, height=200, width=300, format="JPEG")[:-400]}
    return put(tmp_path / "c", {"a.tar": tar(pictures), **{f"b/{n}": d for n, d in pictures}} | cut)


def label_for_gpus(
    corpus: str, uri: Path, *, model_files, processor, decode="exact", by_hand=False
):
    table = TableStore(str(uri), Storage())
    spec = dataclasses.replace(SPEC, decode=decode)
    table.create(spec)
    job = LabellingJob(
        table=table,
        spec=spec,
        run_id="run",
        reading=ReadSettings(decode=decode),
        segmenting=SEGMENTING,
        actors=ActorSettings(num_actors=1, block_images=4),
        processor=processor,
        model_files=model_files,
    )
    plan = plan_corpus(
        corpus, table=table, spec=spec, reading=job.reading, units=UnitSettings(unit_images=100)
    )
    if by_hand:
        segmenter = Segmenter(model_files, settings=SEGMENTING, num_threads=1)
        label_by_hand(
            plan.units, table=table, spec=spec, processor=processor, segmenter=segmenter,
            reading=job.reading,
        )  # fmt: skip
    else:
        stats = RunStats()
        assert not run_units(plan.units, job=job, stats=stats, on_progress=lambda: True)
        assert stats.faults == {}
        assert stats.counts.images == 2 * len(SIZES * 3) + 1
    by_image = [("image_id", "ascending")]
    return [
        images(table.uri).to_table().sort_by(by_image),
        segments(table.uri).to_table().sort_by([*by_image, ("segment_id", "ascending")]),
    ]


def test_the_table_is_that_of_cpus(tmp_path, corpus, model_files, processor):
    made = {"model_files": model_files, "processor": processor}
    on_cpus = label_for_gpus(corpus, tmp_path / "cpus", by_hand=True, **made)
    for_gpus = label_for_gpus(corpus, tmp_path / "gpus", **made)
    decoding = label_for_gpus(corpus, tmp_path / "decoding", decode="gpu", **made)
    for theirs, ours in zip(on_cpus, for_gpus, strict=True):
        # Actors have other numbers of threads: the last bits of scores differ.
        scores = [field.name for field in theirs.schema if field.type == pa.float32()]
        assert ours.drop_columns(scores).equals(theirs.drop_columns(scores))
        for name in scores:
            expected = theirs[name].to_numpy()
            np.testing.assert_allclose(ours[name].to_numpy(), expected, atol=1e-5)
    assert on_cpus[1].num_rows > 0
    columns = ["image_id", "position", "status", "error_class", "height", "width"]
    assert decoding[0].select(columns).equals(on_cpus[0].select(columns))
    assert on_cpus[0]["error_class"].to_pylist().count("TruncatedImage") == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndingOnce(FleetJob):
    """A job of which the first reader ends after its first block."""

    diary: str

    def loader(self, machines: Machines, *, isolation: object) -> LoadUnit:
        load = super().loader(machines, isolation=isolation)

        def ending(unit: pa.Table) -> Iterator[pa.Table]:
            for block in load(unit):
                yield block
                if unit["name"][0].as_py() == "000000.tar" and not os.path.exists(self.diary):
                    Path(self.diary).touch()
                    os._exit(1)

        return ending


def test_sub_drivers_do_each_unit_once_also_where_a_reader_ends(tmp_path, monkeypatch):
    (node,) = ray.nodes()
    group = NodeGroup(
        node_ids=(node["NodeID"],), num_cpus=1, num_gpus=0.5, object_store_bytes=10**8
    )
    monkeypatch.setattr(ray_executor, "node_groups", lambda **_: [group, group])
    passes = []

    def shared_pass(*arguments: object, **options: object) -> SharedPass:
        passes.append(options["groups"])
        return SharedPass(*arguments, **options)

    monkeypatch.setattr(ray_executor, "SharedPass", shared_pass)
    units = drawn_units(6, unit_images=40)
    actors = ActorSettings(
        num_actors=2, actor_gpus=0.5, actor_cpus=0.1, reader_cpus=0.5, block_images=16
    )
    drawn = fleet_job(str(tmp_path / "table"), actors=actors, images_per_second=0)
    job, stats = EndingOnce(**vars(drawn), diary=str(tmp_path / "diary")), RunStats()

    assert not run_units(units, job=job, stats=stats, on_progress=lambda: True)

    assert passes == [[group, group]]
    assert Path(job.diary).exists()
    assert stats.faults == {}
    assert (stats.units, stats.units_elsewhere, stats.counts.images) == (6, 0, 240)
    assert sorted(images(job.table.uri).to_table()["image_id"].to_pylist()) == image_ids(units)
    assert segments(job.table.uri).count_rows() == 10 * 240
