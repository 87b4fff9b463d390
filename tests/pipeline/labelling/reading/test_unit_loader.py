"""A unit comes out as bounded blocks of pixels, in order, and its end or a fault is told."""

import dataclasses
import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from corpora import parquet, picture, put, tar
from PIL import Image, ImageFilter

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.labelling.reading.unit_loader import BLOCK, UnitLoader
from pipeline.planning.planner import PLAN
from pipeline.storage import Storage, StorageFault

STORAGE = Storage()
PIXELS = 64 * 96 * 3  # of a picture of 36 × 48, for the processor of the tests


def sources_of(corpus: str) -> list[Source]:
    return list(list_corpus(corpus, storage=STORAGE, settings=ReadSettings()).sources)


def unit_table(*sources: Source) -> pa.Table:
    rows = [{"unit_index": 0, "unit_id": "u", **dataclasses.asdict(s)} for s in sources]
    return pa.Table.from_pylist(rows, schema=PLAN)


@pytest.fixture
def loader(processor) -> UnitLoader:
    return UnitLoader(
        storage=STORAGE, reading=ReadSettings(), processor=processor, block_bytes=10**9
    )


def loaded_rows(blocks: list[pa.Table]) -> list[dict]:
    assert all(block.schema.equals(BLOCK) for block in blocks)
    return [row for block in blocks for row in block.to_pylist()]


def test_every_image_of_every_source_comes_in_order_and_then_the_end(tmp_path, loader):
    corpus = put(
        tmp_path,
        {
            "a.png": picture(0),
            "b.tar": tar([("x.jpg", picture(1, format="JPEG")), ("y.png", picture(2))]),
            "c.parquet": parquet({"image": [picture(3), picture(4)]}),
            "d.webp": picture(5, format="WEBP"),
        },
    )
    rows = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    assert [row["kind"] for row in rows] == ["image"] * 6 + ["end"]
    assert [row["position"] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["image_id"] for row in rows[:-1]] == [
        "a.png", "b.tar/x", "b.tar/y", "c.parquet/0", "c.parquet/1", "d.webp",
    ]  # fmt: skip
    assert {row["unit_id"] for row in rows} == {"u"}
    assert [row["member"] for row in rows[:-1]] == [None, "x.jpg", "y.png", None, None, None]
    assert all(row["etag"] and row["uri"].startswith(corpus) for row in rows[:-1])
    assert rows[0]["bytes_read"] == len(picture(0))


def test_pixels_are_those_of_the_image_processor(tmp_path, loader, processor):
    corpus = put(tmp_path, {"a.png": picture(1, height=50, width=40), "b.png": picture(2)})
    rows = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    for row, size in zip(rows[:-1], [(50, 40), (36, 48)], strict=True):
        expected = processor.resize(Image.open(row["uri"]))
        shape = (row["pixels_height"], row["pixels_width"], 3)
        assert shape == expected.shape
        assert np.array_equal(np.frombuffer(row["pixels"], np.uint8).reshape(shape), expected)
        assert (row["height"], row["width"]) == size
        assert row["error_class"] is None


@pytest.mark.parametrize("images_per_block", [1, 2, 3, 100])
def test_blocks_are_bounded_in_pixels(tmp_path, loader, images_per_block):
    corpus = put(tmp_path, {f"{n:02}.png": picture(n) for n in range(7)})
    bounded = dataclasses.replace(loader, block_bytes=images_per_block * PIXELS)
    blocks = list(bounded(unit_table(*sources_of(corpus))))
    sizes = [sum(len(pixels) for pixels in b["pixels"].to_pylist() if pixels) for b in blocks]
    assert max(sizes) <= images_per_block * PIXELS
    assert len(blocks) == 7 // images_per_block + 1
    assert [r["position"] for r in loaded_rows(blocks)] == list(range(8))


def test_blocks_of_errors_without_pixels_are_bounded_too(tmp_path, loader):
    corpus = put(tmp_path, {f"{n:03}.png": b"no image" for n in range(200)})
    blocks = list(loader(unit_table(*sources_of(corpus))))
    assert max(block.num_rows for block in blocks) < 100
    assert len(loaded_rows(blocks)) == 201


def test_blocks_come_while_later_images_are_still_to_be_read(tmp_path, loader):
    corpus = put(tmp_path, {"a.tar": tar([(f"{n}.png", picture(n)) for n in range(9)])})
    blocks = dataclasses.replace(loader, block_bytes=1)(unit_table(*sources_of(corpus)))
    first = next(blocks)
    assert first["position"].to_pylist() == [0]
    assert len(list(blocks)) == 9


def test_a_unit_without_images_has_an_end(tmp_path, loader):
    corpus = put(tmp_path, {"a.tar": tar([])})
    (row,) = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    assert (row["kind"], row["position"]) == ("end", 0)
    assert row["skipped"] == [
        {"reason": "an archive without files", "count": 1, "examples": [f"{corpus}/a.tar"]}
    ]


def test_the_end_of_a_unit_tells_what_its_archives_passed_over(tmp_path, loader):
    labels = [("x.jpg", picture(0)), ("x.png", picture(1)), ("._x.jpg", b"a Mac's")]
    corpus = put(tmp_path, {"a.tar": tar(labels), "b.tar": tar([*labels, ("y.txt", b"")])})
    *images, end = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    assert [row["image_id"] for row in images] == ["a.tar/x", "b.tar/x"]
    assert {row["reason"]: row["count"] for row in end["skipped"]} == {
        "hidden": 2, "beside the image of the same name": 2, "of no known kind": 1,
    }  # fmt: skip


def test_an_archive_without_images_is_a_row_in_error(tmp_path, loader):
    corpus = put(tmp_path, {"a.tar": tar([("notes.txt", b"no image"), ("x.mp4", b"a film")])})
    row, end = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    assert (row["image_id"], row["error_class"]) == ("a.tar", "NoImageMember")
    assert "'notes.txt'" in row["error_message"]
    assert [each["count"] for each in end["skipped"]] == [2]


def test_an_image_that_is_no_good_is_a_row_that_says_why(tmp_path, loader):
    good = picture(0)
    corpus = put(
        tmp_path,
        {
            "a.jpg": b"<html>not found</html>",
            "b.png": good[: len(good) // 2],
            "c.png": b"",
            "d.png": good,
            "e.tar": tar([("x.png", good), ("y.png", good)])[:-12000] + b"",
        },
    )
    rows = loaded_rows(list(loader(unit_table(*sources_of(corpus)))))
    by_id = {row["image_id"]: row for row in rows if row["kind"] == "image"}
    assert [by_id[name]["error_class"] for name in ("a.jpg", "b.png", "c.png", "d.png")] == [
        "NotAnImage", "TruncatedImage", "EmptyFile", None,
    ]  # fmt: skip
    for name in ("a.jpg", "b.png", "c.png"):
        assert name in by_id[name]["error_message"]
        assert by_id[name]["pixels"] is None
        assert by_id[name]["height"] is None
    assert rows[-1]["kind"] == "end"
    assert rows[-1]["position"] == len(rows) - 1


def test_an_entry_that_is_not_there_is_a_row_too(tmp_path, loader):
    gone = Source(uri=str(tmp_path / "no.jpg"), name="no.jpg", kind="file", etag="", size=0)
    row, end = loaded_rows(list(loader(unit_table(gone))))
    assert (row["image_id"], row["error_class"]) == ("no.jpg", "NotFound")
    assert end["position"] == 1


def test_a_source_that_changed_is_a_fault_of_the_unit_and_no_images_error(tmp_path, loader):
    corpus = put(tmp_path, {"a.png": picture(0), "b.png": picture(1), "c.png": picture(2)})
    sources = sources_of(corpus)
    put(tmp_path, {"b.png": picture(3)})
    *before, last = loaded_rows(list(loader(unit_table(*sources))))
    assert (last["kind"], last["unit_id"]) == ("fault", "u")
    assert last["error_message"].startswith("SourceChanged: ")
    assert "b.png" in last["error_message"]
    assert all(row["kind"] == "image" and row["error_class"] is None for row in before)


def test_storage_that_fails_is_a_fault_of_the_unit(tmp_path, loader):
    class Away(Storage):
        def read(self, uri: str, **options) -> bytes:
            raise StorageFault(f"read {uri}: connection reset")

    corpus = put(tmp_path, {"a.png": picture(0), "b.png": picture(1)})
    broken = dataclasses.replace(loader, storage=Away())
    (row,) = loaded_rows(list(broken(unit_table(*sources_of(corpus)))))
    assert row["kind"] == "fault"
    assert row["error_message"].startswith("StorageFault: read ")


def test_files_are_fetched_side_by_side_and_not_all_at_once(tmp_path, loader):
    """Latency of a store is hidden, and memory does not grow with the unit."""
    corpus = put(tmp_path, {f"{n:03}.png": picture(0) for n in range(60)})
    lock, together = threading.Lock(), threading.Barrier(8, timeout=20)
    reads: list[str] = []

    class Slow(Storage):
        def read(self, uri: str, **options) -> bytes:
            with lock:
                reads.append(uri)
                waits = len(reads) <= 8
            if waits:
                together.wait()  # passes only if eight are under way at once
            return super().read(uri, **options)

    slow = dataclasses.replace(loader, storage=Slow(), block_bytes=1)
    blocks = slow(unit_table(*sources_of(corpus)))
    next(blocks)
    assert len(reads) <= 40
    assert len(list(blocks)) == 60
    assert sorted(reads) == sorted(set(reads))


def test_decoding_fast_gives_pixels_close_to_exact_ones_and_the_true_size(tmp_path, loader):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1600, 1200)).filter(ImageFilter.GaussianBlur(8))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=92)
    corpus = put(tmp_path, {"a.jpg": buffer.getvalue(), "b.png": picture(0)})
    pixels = {}
    for mode in ("exact", "fast"):
        reading = ReadSettings(decode=mode)
        chosen = dataclasses.replace(loader, reading=reading)
        row, other, _ = loaded_rows(list(chosen(unit_table(*sources_of(corpus)))))
        assert (row["height"], row["width"]) == (1200, 1600)
        shape = (row["pixels_height"], row["pixels_width"], 3)
        pixels[mode] = np.frombuffer(row["pixels"], np.uint8).reshape(shape).astype(float), other
    assert pixels["exact"][0].shape == pixels["fast"][0].shape
    difference = np.abs(pixels["exact"][0] - pixels["fast"][0])
    assert 0 < difference.mean() < 2
    assert difference.max() < 24
    assert pixels["exact"][1] == pixels["fast"][1]  # only JPEGs are decoded otherwise


def test_loaders_travel_to_processes_that_do_without_torch(tmp_path, loader):
    corpus = put(tmp_path, {"a.png": picture(0)})
    Path(tmp_path, "loader.pickle").write_bytes(
        pickle.dumps((loader, unit_table(*sources_of(corpus))))
    )
    code = (
        "import pickle, sys\n"
        f"loader, unit = pickle.load(open({str(tmp_path / 'loader.pickle')!r}, 'rb'))\n"
        "blocks = list(loader(unit))\n"
        "assert blocks[0]['kind'].to_pylist() == ['image', 'end']\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_resize_rule_decides_the_pixels(tmp_path, loader):
    corpus = put(tmp_path, {"a.png": picture(0, height=40, width=59)})
    sizes = {}
    for rule in ("transformers", "detectron2"):
        processor = MaskFormerImageProcessor(
            size={"shortest_edge": 64, "longest_edge": 160}, resize_rule=rule
        )
        chosen = dataclasses.replace(loader, processor=processor)
        row, _ = loaded_rows(list(chosen(unit_table(*sources_of(corpus)))))
        sizes[rule] = (row["pixels_height"], row["pixels_width"])
    assert sizes == {"transformers": (64, 96), "detectron2": (64, 94)}
