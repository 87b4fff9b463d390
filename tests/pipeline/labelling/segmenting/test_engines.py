"""Both engines give the same rows of drawn scenes, up to what `TableSpec.engine` says."""

import dataclasses
import io
import json
import sys

import pyarrow as pa
import pytest
import torch
from corpora import put
from PIL import Image

from maskformer import decode_rle
from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.scene import draw_scene
from pipeline.labelling.model import ModelFolder, actor_files, read_model, table_spec
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import PLAN
from pipeline.storage import Storage

pytestmark = pytest.mark.timeout(900)  # of which an export takes most

PANOPTIC = SegmentSettings(engine="onnx", label_ids_to_fuse=(0, 1, 2, 3))
SCORE = 1e-3
SIZES = [(256, 320), (256, 320), (192, 320), (288, 256)]


@pytest.fixture(scope="module")
def sample_model() -> ModelFolder:
    return read_model(str(SAMPLE_MODEL), resize_rule="transformers")


@pytest.fixture(scope="module")
def exported(sample_model, graphs) -> dict[str, bytes]:
    return dict(actor_files(sample_model, segmenting=PANOPTIC))


@pytest.fixture(scope="module")
def block(tmp_path_factory, sample_model) -> pa.Table:
    """Scenes of some sizes, as the loader gives them."""
    files = {}
    for index, size in enumerate(SIZES):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(index, seed=5, size=size).pixels).save(buffer, "PNG")
        files[f"{index}.png"] = buffer.getvalue()
    corpus = put(tmp_path_factory.mktemp("scenes"), files)
    reading, storage = ReadSettings(), Storage()
    loader = UnitLoader(
        storage=storage, reading=reading, processor=sample_model.processor, block_bytes=10**9
    )
    sources = list_corpus(corpus, storage=storage, settings=reading).sources
    rows = [{"unit_index": 0, "unit_id": "u", **dataclasses.asdict(each)} for each in sources]
    (loaded,) = loader(pa.Table.from_pylist(rows, schema=PLAN))
    return loaded


def assert_same_rows(found: pa.Table, expected: pa.Table) -> None:
    """Compares segments, with the tolerance of the table for scores and masks."""
    num_segments = 0
    for ours, theirs in zip(found.to_pylist(), expected.to_pylist(), strict=True):
        assert (ours["kind"], ours["status"]) == (theirs["kind"], theirs["status"])
        num_segments += len(theirs["segments"] or ())
        for a, b in zip(ours["segments"] or (), theirs["segments"] or (), strict=True):
            assert (a["segment_id"], a["label"]) == (b["segment_id"], b["label"])
            assert a["score"] == pytest.approx(b["score"], abs=SCORE)
            size = {"height": ours["height"], "width": ours["width"]}
            one, other = (decode_rle(each["rle"], **size).astype(bool) for each in (a, b))
            assert (one != other).sum() <= max(2, 0.01 * other.sum())
    assert num_segments > 3 * len(SIZES)


@pytest.mark.parametrize(
    "settings",
    [
        PANOPTIC,
        dataclasses.replace(PANOPTIC, task="instance", label_ids_to_fuse=None),
        dataclasses.replace(PANOPTIC, task="semantic", label_ids_to_fuse=None),
    ],
    ids=lambda settings: settings.task,
)
def test_onnx_gives_the_rows_of_torch(sample_model, exported, block, settings):
    by_torch = dataclasses.replace(settings, engine="torch")
    expected = Segmenter(sample_model.files, settings=by_torch, num_threads=1)(block)
    assert_same_rows(Segmenter(exported, settings=settings, num_threads=1)(block), expected)


def test_with_onnx_an_image_alone_gives_what_it_gives_in_a_batch_to_the_bit(exported, block):
    alone = Segmenter(exported, settings=PANOPTIC, num_threads=1)(block)
    together = dataclasses.replace(PANOPTIC, batch_pixels=10**7)
    assert Segmenter(exported, settings=together, num_threads=1)(block).equals(alone)
    by_batch = Segmenter(exported, settings=together, num_threads=1, way="by_batch")
    assert_same_rows(by_batch(block), alone)


def test_actors_get_the_graph_in_place_of_the_weights(sample_model, exported):
    assert actor_files(sample_model, segmenting=SegmentSettings()) == sample_model.files
    assert exported.keys() - sample_model.files.keys() == {
        "decode_queries.onnx",
        "mask_projection.safetensors",
    }
    assert "model.safetensors" not in exported


def test_an_image_for_which_onnx_has_no_memory_is_recorded(exported, block):
    segmenter = Segmenter(exported, settings=PANOPTIC, num_threads=1)

    class Session:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    segmenter._batch_segmenter.model._session = Session()
    rows = [row for row in segmenter(block).to_pylist() if row["kind"] == "image"]
    assert {row["error_class"] for row in rows} == {"SegmenterOutOfMemory"}


def test_a_side_that_no_graph_takes_is_named(exported):
    segmenter = Segmenter(exported, settings=PANOPTIC, num_threads=1)
    with pytest.raises(ValueError, match=r"multiples of 32 pixels, got 64 x 50.*size_divisor"):
        segmenter._batch_segmenter.model.decode_queries(torch.zeros(1, 3, 64, 50))


def test_a_node_without_onnxruntime_says_what_it_lacks(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs onnxruntime on every node.*\[onnx\]"):
        Segmenter(exported, settings=PANOPTIC, num_threads=1)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_onnx_computes_in_float32_alone(precision):
    with pytest.raises(ValueError, match=f"engine onnx computes in fp32.*{precision}"):
        SegmentSettings(engine="onnx", precision=precision)


def test_onnx_is_for_actors_without_a_gpu():
    PANOPTIC.check_actors(actor_gpus=0)
    SegmentSettings().check_actors(actor_gpus=1)
    with pytest.raises(ValueError, match="--actor_gpus 0"):
        PANOPTIC.check_actors(actor_gpus=0.5)


def test_a_table_is_bound_to_its_engine(sample_model):
    by_onnx, by_torch = (
        table_spec(sample_model, segmenting=settings, reading=ReadSettings())
        for settings in (PANOPTIC, dataclasses.replace(PANOPTIC, engine="torch"))
    )
    assert by_onnx.difference(json.loads(by_torch.to_json())) == (
        'engine: the table has "torch", this run "onnx"'
    )
    assert by_onnx.fingerprint != by_torch.fingerprint
