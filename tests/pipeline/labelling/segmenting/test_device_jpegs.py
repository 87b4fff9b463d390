"""JPEGs that a device decodes give the rows, turned and in error where Pillow's would be.

torchvision's decoder on the CPU stands in for the one on a GPU.
"""

import contextlib
import io
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from corpora import picture, put
from PIL import Image

from maskformer import MaskFormerImageProcessor, to_rgb
from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling import run
from pipeline.labelling.reading import unit_loader
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.segmenting import device_jpegs
from pipeline.labelling.segmenting.device_jpegs import decode_block, upright
from pipeline.labelling.segmenting.model_inputs import without_pixels
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import PLAN
from pipeline.runtime.actor_settings import ActorSettings
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import Storage

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_priority(monkeypatch):
    monkeypatch.setattr(unit_loader, "lower_priority", lambda: None)


def smooth_jpeg(*, height: int = 60, width: int = 90, orientation: int = 1, **options) -> bytes:
    """A smooth JPEG, on which decoders agree but for rounding."""
    pixels = np.random.default_rng(height).integers(0, 256, (4, 6, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.convert(options.pop("mode", "RGB")).save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def lacking(data: bytes) -> bytes:
    """The file without the last third of its data, but with its end mark."""
    return data[: 2 * len(data) // 3] + b"\xff\xd9"


def load_block(folder: str, *, processor, decode: str = "gpu", for_gpus: bool = True) -> pa.Table:
    reading, storage = ReadSettings(decode=decode), Storage()
    loader = UnitLoader(
        storage=storage,
        reading=reading,
        processor=processor,
        block_bytes=10**9,
        for_gpus=for_gpus,
    )
    sources = list_corpus(folder, storage=storage, settings=reading).sources
    rows = [{"unit_index": 0, "unit_id": "u", **vars(source)} for source in sources]
    return pa.concat_tables(loader(pa.Table.from_pylist(rows, schema=PLAN)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(orientation):
    data = smooth_jpeg(orientation=orientation)
    with Image.open(io.BytesIO(data)) as image:
        stored = torch.from_numpy(np.array(image))
        expected = np.array(to_rgb(image))
    assert np.array_equal(upright(stored, orientation=orientation).numpy(), expected)


def test_readers_send_the_bytes_of_plain_jpegs_and_the_pixels_of_all_else(tmp_path, processor):
    files = {
        "a.jpg": smooth_jpeg(),
        "b.png": picture(1),
        "c.jpg": smooth_jpeg(mode="CMYK"),
        "d.jpg": smooth_jpeg(progressive=True),
        "e.jpg": smooth_jpeg(orientation=6),
        "f.jpg": smooth_jpeg()[:700],
        "g.jpg": smooth_jpeg(mode="L"),
    }
    rows = load_block(put(tmp_path, files), processor=processor).to_pylist()
    by_id = {row["image_id"]: row for row in rows if row["kind"] == "image"}
    assert {name for name, row in by_id.items() if row["jpeg"] is not None} == {
        "a.jpg", "e.jpg", "g.jpg",
    }  # fmt: skip
    assert {name for name, row in by_id.items() if row["pixels"] is not None} == {
        "b.png", "c.jpg", "d.jpg",
    }  # fmt: skip
    assert by_id["f.jpg"]["error_class"] == "TruncatedImage"
    assert by_id["a.jpg"]["jpeg"] == files["a.jpg"]
    turned = by_id["e.jpg"]
    assert (turned["height"], turned["width"], turned["orientation"]) == (90, 60, 6)
    assert (turned["model_height"], turned["model_width"]) == processor.resized_size((90, 60))


def test_without_gpus_the_readers_decode(tmp_path, processor):
    folder = put(tmp_path, {"a.jpg": smooth_jpeg()})
    found = load_block(folder, processor=processor, for_gpus=False)
    assert found.equals(load_block(folder, processor=processor, decode="exact", for_gpus=False))


def test_decoded_pixels_are_pillows_but_for_rounding(tmp_path, processor):
    files = {
        f"{n}.jpg": smooth_jpeg(orientation=n, height=60 + n, mode="L" if n == 4 else "RGB")
        for n in range(1, 9)
    }
    block = load_block(put(tmp_path, files), processor=processor)
    decoded = decode_block(block, device=CPU)
    assert decoded.rows.equals(without_pixels(block))
    assert [image.key[1] for image in sorted(decoded.images, key=lambda e: e.key)] == [*range(8)]
    for image in decoded.images:
        with Image.open(image.uri) as stored:
            expected = np.array(to_rgb(stored)).astype(int)
        assert image.size == image.pixels.shape[:2] == expected.shape[:2]
        assert np.abs(image.pixels.numpy() - expected).max() <= 3


def test_an_image_that_lacks_data_in_spite_of_its_end_mark_is_an_error(tmp_path, processor):
    files = {
        "a.jpg": smooth_jpeg(),
        "b.jpg": lacking(smooth_jpeg(height=200, width=300)),
        "c.jpg": smooth_jpeg(),
    }
    folder = put(tmp_path, files)
    rows = without_pixels(load_block(folder, processor=processor, decode="exact")).to_pylist()
    decoded = decode_block(load_block(folder, processor=processor), device=CPU)
    (error,) = [row for row in decoded.rows.to_pylist() if row["error_class"]]
    (expected,) = [row for row in rows if row["error_class"]]
    assert error == expected
    assert error["position"] == 1
    assert {image.key for image in decoded.images} == {("u", 0), ("u", 2)}


def test_what_the_device_refuses_is_decoded_one_by_one_and_then_by_pillow(
    tmp_path, processor, monkeypatch
):
    folder = put(
        tmp_path,
        {"a.jpg": smooth_jpeg(), "b.jpg": smooth_jpeg(height=61), "c.jpg": smooth_jpeg(height=62)},
    )
    block = load_block(folder, processor=processor)
    whole = decode_block(block, device=CPU)
    decode, calls = device_jpegs._decode, []

    def choosy(encoded, *, device):
        calls.append(len(encoded))
        images = decode(encoded, device=device)
        if any(image.shape[1] == 61 for image in images):
            raise RuntimeError("nvjpeg: not supported")
        return images

    monkeypatch.setattr(device_jpegs, "_decode", choosy)
    found = decode_block(block, device=CPU)
    assert calls == [3, 1, 1, 1]
    assert found.rows.equals(whole.rows)
    for image, other in zip(found.images, whole.images, strict=True):
        assert image.key == other.key
        assert np.abs(np.asarray(image.pixels).astype(int) - other.pixels.numpy()).max() <= 3


def test_on_a_gpu_decoding_takes_no_memory_that_the_model_may_still_use(
    tmp_path, processor, monkeypatch
):
    """Streams are stand-ins: what is asked of them, in order."""
    folder = put(tmp_path, {"a.jpg": smooth_jpeg(), "b.jpg": smooth_jpeg(orientation=6)})
    block = load_block(folder, processor=processor)
    expected = decode_block(block, device=CPU)
    asked, decode, gpu = [], device_jpegs._decode, torch.device("cuda:1")

    @contextlib.contextmanager
    def entering(stream):
        asked.append(f"enters {stream}")
        yield
        asked.append(f"leaves {stream}")

    def decoding(encoded, *, device):
        asked.append("decodes")
        return decode(encoded, device=CPU)

    models = Mock(wait_stream=lambda stream: asked.append(f"the model waits for {stream}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "stream", entering)
    monkeypatch.setattr(torch.cuda, "current_stream", {gpu: models}.__getitem__)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: asked.append(stream is models)
    )
    monkeypatch.setattr(device_jpegs, "_decode", decoding)
    own = "a stream of cuda:1"
    for _ in range(2):
        asked.clear()
        found = decode_block(block, device=gpu)
        assert asked == [
            f"enters {own}", "decodes", f"leaves {own}", f"the model waits for {own}", True, True,
        ]  # fmt: skip
        for ours, theirs in zip(found.images, expected.images, strict=True):
            assert torch.equal(ours.pixels, theirs.pixels)
    device_jpegs._stream_of.cache_clear()


def test_rows_are_those_of_exact_decoding_where_decoders_agree(tmp_path, model_files, monkeypatch):
    """Pillow stands in for the decoder here: then nothing differs, errors included."""

    def by_pillow(encoded, *, device):
        images = [Image.open(io.BytesIO(each.numpy().tobytes())) for each in encoded]
        return [torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) for i in images]

    monkeypatch.setattr(device_jpegs, "_decode", by_pillow)
    processor = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 160})
    settings = SegmentSettings(threshold=0.3, overlap_mask_area_threshold=0.1)
    segmenter = Segmenter(model_files, settings=settings, num_threads=1)
    files = {f"{n}.jpg": smooth_jpeg(orientation=n, height=50 + 4 * n) for n in range(1, 9)}
    files |= {
        "9.jpg": lacking(smooth_jpeg(height=200, width=300)),
        "a.png": picture(1),
        "b.jpg": b"x",
    }
    folder = put(tmp_path, files)
    rows = {}
    for decode in ("exact", "gpu"):
        found = segmenter(load_block(folder, processor=processor, decode=decode)).to_pylist()
        rows[decode] = sorted(found, key=lambda row: row["position"])
    assert rows["gpu"] == rows["exact"]
    assert sum(row["num_segments"] or 0 for row in rows["gpu"]) > 0
    assert [row["error_class"] for row in rows["gpu"]].count(None) == 10  # nine and the end


def test_without_a_gpu_in_the_cluster_the_run_says_so(monkeypatch):
    job = Mock(
        reading=ReadSettings(decode="gpu"), actors=ActorSettings(), segmenting=SegmentSettings()
    )
    monkeypatch.setattr("pipeline.runtime.cluster.connect", lambda address, *, dashboard: None)
    nodes = [{"Alive": True, "Resources": {"CPU": 16}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(WrongUsage, match=r"--decode gpu needs actors with a GPU \(CUDA\)"):
        run._connect(job)
    nodes[0]["Resources"]["GPU"] = 1
    run._connect(job)
    job.reading = ReadSettings()
    del nodes[0]["Resources"]["GPU"]
    run._connect(job)
    job.segmenting = SegmentSettings(compile_cache="s3://bucket/code")
    with pytest.raises(WrongUsage, match=r"--compile_cache needs actors with a GPU \(CUDA\)"):
        run._connect(job)
