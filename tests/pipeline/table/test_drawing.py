"""A contact sheet shows each image with the segments that go with it as it is now."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from as_files import encode_image, encode_table
from drawn_labels import put
from PIL import Image
from small_tables import SPEC, settled

from maskformer import encode_segments
from pipeline.maintenance.compact.run import compact
from pipeline.maintenance.settings import CompactSettings
from pipeline.storage import Storage
from pipeline.table import latest
from pipeline.table.drawing import SheetLayout, contact_sheet
from pipeline.table.store import IMAGES, SEGMENTS, TableStore


def grey(level: int) -> bytes:
    return encode_image(Image.new("L", (40, 30), level))


def label_half(corpus: Path, table: TableStore, run_id: str, *, left: bool) -> None:
    """Labels what is new with one segment in the left or the right half."""
    mask = np.zeros((30, 40), np.int32)
    mask[:, :20] = left
    mask[:, 20:] = not left
    (rle,) = encode_segments(mask).rles
    size = {"height": 30, "width": 40}
    for unit in settled(str(corpus), table, run_id).units:
        images = [
            {
                "image_id": source.name, "uri": source.uri, "etag": source.etag, "position": at,
                "unit_id": unit.unit_id, "status": "ok", "num_segments": 1, **size,
            }
            for at, source in enumerate(unit.sources)
        ]  # fmt: skip
        segments = [
            {
                "image_id": source.name, "segment_id": 1, "label_id": 0, "label": "",
                "score": None, "area": 600, "rle": rle, **size,
            }
            for source in unit.sources
        ]  # fmt: skip
        for part, schema, rows in (("segments", SEGMENTS, segments), ("images", IMAGES, images)):
            made_by = {**SPEC.file_metadata, "unit_id": unit.unit_id}
            written = pa.Table.from_pylist(rows, schema=schema).replace_schema_metadata(made_by)
            table.storage.write(table.file(part, f"{unit.unit_id}.parquet"), encode_table(written))


@pytest.fixture
def table(tmp_path) -> TableStore:
    """Two images, of which one changed after the first night."""
    table = TableStore(str(tmp_path / "table"), Storage())
    corpus = tmp_path / "corpus"
    put(corpus, {"a.png": grey(100), "b.png": grey(100)})
    label_half(corpus, table, "run-1", left=True)
    put(corpus, {"a.png": grey(101)})
    label_half(corpus, table, "run-2", left=False)
    return table


@pytest.mark.parametrize("is_compacted", [False, True])
def test_the_latest_segments_are_drawn(table, is_compacted):
    if is_compacted:
        compact(table, CompactSettings(table=table.uri))
    layout = SheetLayout(columns=2, tile_width=40)
    sheet = np.asarray(contact_sheet(table.uri, ["a.png", "b.png"], layout=layout))
    is_tinted = sheet.max(-1) != sheet.min(-1)
    # The outline of a segment is its first column; in the middle there is a name.
    assert [bool(is_tinted[2, x]) for x in (3, 37, 43, 77)] == [False, True, True, False]


def test_only_the_chosen_images_and_their_segments_are_given(table):
    rows, segments = latest.rows_of_images(table, ["a.png", "gone.png"])
    assert [row["image_id"] for row in rows] == ["a.png"]
    assert [segment["image_id"] for segment in segments] == ["a.png"]
    assert latest.rows_of_images(table, []) == ([], [])


def test_a_sheet_of_no_image_is_blank(table):
    assert contact_sheet(table.uri, ["gone.png"]).height == 1
