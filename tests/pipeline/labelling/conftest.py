"""A small model with random weights, and jobs whose segmenters fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import picture, put
from faulty_jobs import FaultyJob
from small_model import small_model
from specs import panoptic_spec

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.driving.workers import SegmenterFactory
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import Plan, UnitSettings, plan_corpus
from pipeline.storage import Storage
from pipeline.table.store import TableStore


@pytest.fixture(scope="session")
def processor() -> MaskFormerImageProcessor:
    return MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 160})


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, processor: MaskFormerImageProcessor
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_files(model_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(model_folder.iterdir())}


@pytest.fixture
def planned_job(
    tmp_path: Path, processor: MaskFormerImageProcessor
) -> Callable[..., tuple[Plan, FaultyJob]]:
    """Plans a run over drawn pictures, whose segmenters `faults` builds."""

    def plan(
        faults: SegmenterFactory,
        *,
        num_images: int,
        unit_images: int,
        storage: Storage | None = None,
        **settings: Any,
    ) -> tuple[Plan, FaultyJob]:
        corpus = put(tmp_path / "c", {f"{n:02}.png": picture(n) for n in range(num_images)})
        table = TableStore(str(tmp_path / "table"), storage or Storage())
        spec, reading = panoptic_spec("road", "sky"), ReadSettings()
        table.create(spec)
        units = UnitSettings(unit_images=unit_images)
        planned = plan_corpus(corpus, table=table, spec=spec, reading=reading, units=units)
        job = FaultyJob(
            table=table,
            spec=spec,
            run_id="run",
            reading=reading,
            segmenting=SegmentSettings(),
            processor=processor,
            model_files={},
            faults=faults,
            **settings,
        )
        return planned, job

    return plan
