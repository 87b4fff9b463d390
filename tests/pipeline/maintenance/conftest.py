"""Fixtures of the tests of compaction: tables of four units."""

import pytest
from drawn_tables import draw_table

from pipeline.table.store import TableStore


@pytest.fixture
def table(tmp_path) -> TableStore:
    return draw_table(str(tmp_path / "table"), units=("c", "a", "d", "b"))


@pytest.fixture
def large(tmp_path) -> TableStore:
    """Draws a table whose units together are larger than those that tests add."""
    return draw_table(str(tmp_path / "table"), units=("c", "a", "d", "b"), images=40)
