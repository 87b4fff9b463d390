"""What tests of jobs share: a tiny model, a small corpus, and what an unbroken run makes of it."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from drawn import plain_corpus, written, written_mixed_corpus
from filelock import FileLock
from job_runs import Here, Jobs
from table_rows import Run, rows_of

from maskformer import (
    MaskFormerConfig,
    MaskFormerDetrConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    MaskFormerSwinConfig,
)

Made = TypeVar("Made")


@pytest.fixture(scope="session")
def jobs() -> Iterator[Jobs]:
    """Starts jobs as processes."""
    jobs = Jobs()
    yield jobs
    jobs.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a job in this process, to an end that comes before Ray is started."""
    return Here(monkeypatch, capsys)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("tiny_model"), seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_model(tmp_path_factory.mktemp("other_model"), seed=1)


@pytest.fixture(scope="session")
def usual(tiny_model: Path) -> dict[str, Any]:
    """Options with which the tiny model finds some segments in every drawn picture.

    One actor: a second would be another start of torch in each of many runs, on the same cores.
    """
    return {
        "model": tiny_model,
        "threshold": 0.3,
        "overlap_mask_area_threshold": 0.05,
        "num_actors": 1,
    }


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of twelve images under a prefix. Not to be changed."""
    return _made_once("plain", lambda folder: written(folder, plain_corpus(12)), tmp_path_factory)


@pytest.fixture(scope="session")
def unbroken(
    jobs: Jobs, plain: Path, usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run on `plain` that nothing disturbed, in six units of two images. Not to be changed.

    Without a cluster: runs on one are held to its rows.
    """

    def make(folder: Path) -> Run:
        table = folder / "table"
        options = {"corpus": plain, "table": table, "unit_images": 2, "local": True, **usual}
        ended = jobs.run(**options).expect(0)
        return Run(corpus=plain, table=table, rows=rows_of(table), ended=ended)

    return _made_once("unbroken", make, tmp_path_factory)


@pytest.fixture(scope="session")
def mixed(jobs: Jobs, usual: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without a cluster on a corpus of every kind of source, with two segmenters and two
    labels fused. One test changes corpus and table after those before it have looked; the rows
    stay."""

    def make(folder: Path) -> Run:
        corpus, table = written_mixed_corpus(folder), folder / "table"
        ended = jobs.run(
            corpus=corpus,
            table=table,
            unit_images=3,
            label_ids_to_fuse="2,1",
            local=True,
            **{**usual, "num_actors": 2},
        ).expect(0)
        return Run(corpus=corpus, table=table, rows=rows_of(table), ended=ended)

    return _made_once("mixed", make, tmp_path_factory)


def _made_once(
    name: str, make: Callable[[Path], Made], tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """Returns what the first of pytest's processes that asks has made."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    kept = folder / f"{name}.pickle"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            (folder / name).mkdir()
            kept.write_bytes(pickle.dumps(make(folder / name)))
        return pickle.loads(kept.read_bytes())


def _save_model(folder: Path, *, seed: int) -> Path:
    """Random weights, with which some queries are sure of a label and masks have edges."""
    torch.manual_seed(seed)
    config = MaskFormerConfig(
        backbone_config=MaskFormerSwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 4],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=MaskFormerDetrConfig(
            d_model=32,
            decoder_layers=2,
            decoder_ffn_dim=64,
            num_queries=10,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
        ),
        fpn_feature_size=32,
        mask_feature_size=32,
        num_labels=4,
        id2label={0: "sky", 1: "road", 2: "tree", 3: "car"},
    )
    model = MaskFormerForInstanceSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.mul_(8)
        model.class_predictor.bias[-1] -= 2
        list(model.mask_embedder.parameters())[-2].mul_(16)
    model.save_pretrained(folder)
    MaskFormerImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)
    return folder
