"""Fixtures of the tests of segmenters: small segmenters, and blocks of pictures for them."""

import dataclasses
import functools
from typing import Any

import pyarrow as pa
import pytest
import torch
from corpora import picture, put
from segmented_pictures import SIZES

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings
from pipeline.planning.planner import PLAN
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def one_thread():
    """Uses one thread: small images gain nothing from more, and machines that are busy lose."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Loads pictures of several sizes, and one file that is none, as the loader does."""
    folder = tmp_path_factory.mktemp("pictures")
    files = {
        f"{n}.png": picture(n, height=height, width=width)
        for n, (height, width) in enumerate(SIZES)
    }
    corpus = put(folder, {**files, "4b.png": b"no image"})

    def load(processor: MaskFormerImageProcessor) -> pa.Table:
        reading, storage = ReadSettings(), Storage()
        loader = UnitLoader(
            storage=storage, reading=reading, processor=processor, block_bytes=10**9
        )
        sources = list_corpus(corpus, storage=storage, settings=reading).sources
        rows = [{"unit_index": 0, "unit_id": "u", **dataclasses.asdict(s)} for s in sources]
        (block,) = loader(pa.Table.from_pylist(rows, schema=PLAN))
        return block

    return load


@pytest.fixture(scope="module")
def block(blocks, processor) -> pa.Table:
    return blocks(processor)


@pytest.fixture(scope="module")
def make(model_files):
    """Makes segmenters by their settings, each once."""

    @functools.cache
    def segmenter(settings: SegmentSettings) -> Segmenter:
        return Segmenter(model_files, settings=settings, num_threads=1)

    def changed(settings: SegmentSettings, **changes: Any) -> Segmenter:
        return segmenter(dataclasses.replace(settings, **changes))

    return changed
