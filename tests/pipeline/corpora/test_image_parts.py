"""Parts of sources that hold one image: `tests/pipeline/review_page/test_photographs.py` reads
them in every kind of source, `tests/pipeline/comparison/test_select.py` puts them into queues."""

import pytest

from pipeline.corpora.image_parts import source_name


@pytest.mark.parametrize(
    ("uri", "image_id", "name"),
    [
        ("/data/a/b.jpg", "a/b.jpg", "a/b.jpg"),
        ("/data/a/b.jpg", "seventh", "b.jpg"),
        ("s3://b/c/x.tar", "c/x.tar/k/1", "c/x.tar"),
        ("/data/rows.parquet", "rows.parquet/7", "rows.parquet"),
        ("/data/rows.parquet", "key-7", "rows.parquet"),
        ("/data/x.tar", "x.tar/x.tar/1", "x.tar"),
    ],
)
def test_a_sources_name_follows_from_its_place_and_an_id_in_it(uri, image_id, name):
    assert source_name(uri, image_id=image_id) == name
