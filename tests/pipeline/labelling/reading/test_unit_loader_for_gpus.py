"""For actors with GPUs a unit comes by shape, at the size that images are decoded at."""

import dataclasses
import io
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
import torch
from coco_sizes import coco_sizes
from corpora import picture, put, tar
from PIL import Image

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import EncodedImage, ReadSettings
from pipeline.corpora.sources import Source
from pipeline.labelling.reading import unit_loader
from pipeline.labelling.reading.shape_order import PlacedImage, Shape, ShapeOrder
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.segmenting.batch_sizes import next_batch
from pipeline.labelling.segmenting.model_inputs import ModelInputs, images_of
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import PLAN
from pipeline.runtime import niceness
from pipeline.storage import Storage, StorageFault

SIZES = [(36, 48), (50, 40), (36, 48), (64, 64), (41, 59), (40, 59), (90, 60), (36, 48), (300, 400)]
BLOCK_IMAGES = 256
EIGHTH = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 256}, size_divisor=4)
"""The shapes of photographs at 512 pixels, for photographs of an eighth of their sides."""


@pytest.fixture(autouse=True)
def calls(monkeypatch) -> list[str]:
    """Keeps the priority of the tests' own process."""
    calls: list[str] = []
    monkeypatch.setattr(unit_loader, "lower_priority", lambda: calls.append("lower"))
    return calls


def gpu_loader(processor: MaskFormerImageProcessor, **settings) -> UnitLoader:
    given = {"reading": ReadSettings(), "block_bytes": 10**9, "for_gpus": True, **settings}
    return UnitLoader(storage=Storage(), processor=processor, **given)


def unit_of_corpus(corpus: str) -> pa.Table:
    sources = list_corpus(corpus, storage=Storage(), settings=ReadSettings()).sources
    return of_sources(sources)


def of_sources(sources: list[Source]) -> pa.Table:
    rows = [{"unit_index": 0, "unit_id": "u", **dataclasses.asdict(s)} for s in sources]
    return pa.Table.from_pylist(rows, schema=PLAN)


def exact_rows(size: tuple[int, int]) -> bytes:
    """A grey JPEG, quickly made."""
    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), (90, 120, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def num_batches(block: pa.Table, processor: MaskFormerImageProcessor) -> int:
    """Counts those of an actor on a GPU of 24 GB in bfloat16."""
    by_shape = defaultdict(list)
    for size in zip(block["height"].to_pylist(), block["width"].to_pylist(), strict=True):
        if size != (None, None):
            by_shape[processor.padded_size(processor.resized_size(size))].append(size)
    count = 0
    for padded_size, sizes in by_shape.items():
        while sizes:
            some = next_batch(sizes, padded_size=padded_size, most_pixels=24 * 2**30 // 512)
            sizes, count = sizes[some:], count + 1
    return count


def test_a_unit_of_photographs_comes_by_shape_in_blocks_of_a_bounded_size(tmp_path):
    sizes = [(height // 8, width // 8) for height, width in coco_sizes(1000)]
    members = [(f"{n:04}.jpg", exact_rows(size)) for n, size in enumerate(sizes)]
    corpus = put(tmp_path, {"a.tar": tar(members)})
    block_bytes = BLOCK_IMAGES * 3 * 64 * 88
    batches = {}
    for for_gpus in (False, True):
        load = gpu_loader(EIGHTH, block_bytes=block_bytes, for_gpus=for_gpus)
        blocks = list(load(unit_of_corpus(corpus)))
        positions = [place for block in blocks for place in block["position"].to_pylist()]
        assert sorted(positions) == list(range(1001))
        assert max(block["pixels"].nbytes for block in blocks) < 1.5 * block_bytes
        batches[for_gpus] = sum(num_batches(block, EIGHTH) for block in blocks)
    assert 1000 / batches[False] < 13
    assert 1000 / batches[True] > 23


@pytest.mark.parametrize("seed", range(6))
def test_photographs_of_a_unit_come_to_batches_of_24_and_more(seed):
    sizes = coco_sizes(1000, seed=seed)
    processor = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})

    def shape_of(image: EncodedImage) -> Shape:
        size = sizes[int(image.image_id)]
        padded_size = processor.padded_size(processor.resized_size(size))
        return Shape(size=size, padded_size=padded_size, num_bytes=3 * size[0] * size[1])

    block_bytes = BLOCK_IMAGES * 3 * 512 * 704
    order = ShapeOrder(shape_of=shape_of, run_bytes=block_bytes, window_bytes=2**28)
    images = [
        EncodedImage(image_id=str(n), uri="u", member=None, etag="e", data=b"x" * 150_000)
        for n in range(len(sizes))
    ]
    rows = []
    for each in order(PlacedImage(position=n, image=image) for n, image in enumerate(images)):
        height, width = sizes[each.position]
        row = {"position": each.position, "height": height, "width": width}
        rows.append((row | {"pixels_height": height, "pixels_width": width}, each.bytes_to_come))
    blocks = list(unit_loader._blocks(iter(rows), block_bytes=block_bytes))
    assert sum(len(block) for block in blocks) == len(sizes)
    assert len(sizes) / sum(num_batches(block, processor) for block in blocks) >= 24


def test_the_first_block_comes_early_where_a_shape_repeats(tmp_path):
    sizes = [[(36, 48), (48, 36)][n % 2] for n in range(300)]
    members = [(f"{n:03}.jpg", exact_rows(size)) for n, size in enumerate(sizes)]
    corpus = put(tmp_path, {"a.tar": tar(members)})
    seen = []

    class Counted(unit_loader.ShapeOrder):
        def __call__(self, images):
            return super().__call__(seen.append(each.position) or each for each in images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_loader, "ShapeOrder", Counted)
        blocks = gpu_loader(EIGHTH, block_bytes=20 * 36 * 48 * 3)(unit_of_corpus(corpus))
        first = next(blocks)
    assert first["position"].to_pylist() == list(range(0, 40, 2))
    assert len(seen) < 45


def test_errors_and_truncated_headers_are_rows_as_they_are_for_a_cpu(tmp_path, processor):
    good = picture(0, format="JPEG")
    corpus = put(
        tmp_path,
        {
            "a.jpg": b"<html>not found</html>",
            "b.jpg": good[:40],
            "c.jpg": good[: len(good) // 2],
            "d.png": b"",
            "e.jpg": good,
            "f.tar": tar([("x.png", picture(1)), ("y.png", picture(2))])[:-12000],
        },
    )
    small = ReadSettings(max_image_pixels=36 * 48)
    put(tmp_path, {"g.png": picture(3, height=60, width=60)})
    rows = {}
    for for_gpus in (False, True):
        blocks = gpu_loader(processor, reading=small, for_gpus=for_gpus)(unit_of_corpus(corpus))
        rows[for_gpus] = {row["position"]: row for block in blocks for row in block.to_pylist()}
    assert {row["error_class"] for row in rows[True].values()} >= {
        "NotAnImage", "TruncatedImage", "EmptyFile", "DecompressionBomb", None,
    }  # fmt: skip
    same = [name for name in unit_loader.BLOCK.names if not name.startswith("pixels")]
    for position, row in rows[False].items():
        assert {n: row[n] for n in same} == {n: rows[True][position][n] for n in same}


def test_a_fault_of_storage_in_mid_unit_is_the_units_fault(tmp_path, processor):
    class Away(Storage):
        def read(self, uri: str, **options) -> bytes:
            if uri.endswith("5.png"):
                raise StorageFault(f"read {uri}: connection reset")
            return super().read(uri, **options)

    corpus = put(tmp_path, {f"{n}.png": picture(n) for n in range(9)})
    broken = dataclasses.replace(gpu_loader(processor), storage=Away())
    rows = [row for block in broken(unit_of_corpus(corpus)) for row in block.to_pylist()]
    assert rows[-1]["kind"] == "fault"
    assert rows[-1]["error_message"].startswith("StorageFault: read ")
    assert all(row["kind"] == "image" and row["error_class"] is None for row in rows[:-1])


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_device_makes_the_inputs_of_what_the_reader_would_have_resized(tmp_path, rule, mode):
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 160}, resize_rule=rule
    )
    files = {
        f"{n:02}.jpg": picture(n, height=height, width=width, format="JPEG")
        for n, (height, width) in enumerate([*SIZES, (120, 160), (900, 1200)])
    }
    corpus = put(tmp_path, files)
    inputs = ModelInputs(processor, device=torch.device("cpu"), dtype=torch.float32)
    values, travelling = {}, {}
    for for_gpus in (False, True):
        load = gpu_loader(processor, reading=ReadSettings(decode=mode), for_gpus=for_gpus)
        (block,) = load(unit_of_corpus(corpus))
        images = images_of(block)
        values[for_gpus] = {image.key: inputs([image]) for image in images}
        travelling[for_gpus] = {image.key: image.pixels.shape[:2] for image in images}
    for key, value in values[False].items():
        assert torch.equal(value, values[True][key])
    sizes = {position: size for (_, position), size in travelling[True].items()}
    assert (sizes[0], sizes[9]) == ((36, 48), (120, 160))
    # Far larger than the model's size, unless it is decoded at less.
    assert sizes[10] == (travelling[False]["u", 10] if mode == "exact" else (113, 150))


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("policy", ["record", "shrink", "tile"])
def test_rows_are_those_of_images_that_came_alone_and_resized(
    tmp_path, model_files, rule, task, policy, monkeypatch
):
    lenient = {"threshold": 0.3, "overlap_mask_area_threshold": 0.1}
    thresholds = {} if task == "semantic" else lenient
    settings = SegmentSettings(
        task=task, resize_rule=rule, batch_pixels=10**6, out_of_memory=policy, **thresholds
    )
    segmenter = Segmenter(model_files, settings=settings, num_threads=1)
    if policy != "record":
        from pipeline.labelling.segmenting.batch_segmenter import BatchSegmenter

        predict = BatchSegmenter.predict

        def predict_small(self, batch):
            if any(image.model_size[0] * image.model_size[1] > 70 * 100 for image in batch):
                raise MemoryError
            return predict(self, batch)

        monkeypatch.setattr(BatchSegmenter, "predict", predict_small)
    corpus = put(
        tmp_path,
        {
            f"{n:02}.png": picture(n, height=height, width=width)
            for n, (height, width) in enumerate([*SIZES, (128, 260)])
        },
    )
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 160}, resize_rule=rule
    )
    rows = {}
    for for_gpus, block_bytes in ((False, 1), (True, 10**9)):
        load = gpu_loader(processor, for_gpus=for_gpus, block_bytes=block_bytes)
        found = [
            row for block in load(unit_of_corpus(corpus)) for row in segmenter(block).to_pylist()
        ]
        rows[for_gpus] = sorted(found, key=lambda row: row["position"])
    assert sum(row["num_segments"] or 0 for row in rows[True]) > 0
    assert [rounded_row(row) for row in rows[True]] == [rounded_row(row) for row in rows[False]]


def rounded_row(row: dict) -> dict:
    """A row without the last bits of its scores, which depend on the batch."""
    row = dict(row)
    for name in ("coverage", "mean_score"):
        row[name] = row[name] and round(row[name], 4)
    row["segments"] = [
        {k: round(v, 4) if isinstance(v, float) else v for k, v in segment.items()}
        for segment in row["segments"] or ()
    ]
    return row


def test_readers_beside_gpus_lower_their_priority_once(tmp_path, processor, calls, monkeypatch):
    corpus = put(tmp_path, {"a.png": picture(0)})
    list(gpu_loader(processor, for_gpus=False)(unit_of_corpus(corpus)))
    assert calls == []
    list(gpu_loader(processor)(unit_of_corpus(corpus)))
    assert calls == ["lower"]
    steps: list[int] = []
    monkeypatch.setattr(niceness.os, "nice", steps.append)
    niceness.lower_priority.cache_clear()
    niceness.lower_priority()
    niceness.lower_priority()
    niceness.lower_priority.cache_clear()
    assert steps == [5]


def test_pixels_of_a_filter_that_devices_do_not_know_are_resized_by_the_reader(tmp_path):
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 160}, resample=Image.Resampling.LANCZOS
    )
    corpus = put(tmp_path, {"a.png": picture(0)})
    (block,) = gpu_loader(processor)(unit_of_corpus(corpus))
    (image,) = images_of(block)
    assert np.array_equal(image.pixels, processor.resize(Image.open(tmp_path / "a.png")))
