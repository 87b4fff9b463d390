"""Fixtures of the tests of reviews: a table, and an empty log of reviews of it."""

import pytest
from drawn_tables import draw_table

from pipeline.reviews.log import ReviewLog
from pipeline.storage import Storage
from pipeline.table.store import TableStore


@pytest.fixture(scope="package")
def table(tmp_path_factory) -> TableStore:
    """Draws one table for all tests, which only read it."""
    return draw_table(str(tmp_path_factory.mktemp("reviewed") / "table"))


@pytest.fixture
def log(table, tmp_path) -> ReviewLog:
    return ReviewLog.of_table(table.uri, reviews=str(tmp_path / "reviews"), storage=Storage())
