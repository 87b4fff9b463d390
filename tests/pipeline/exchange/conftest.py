"""Fixtures of the tests of exports and imports."""

import pytest
from drawn_tables import draw_table


@pytest.fixture(scope="package")
def table(tmp_path_factory) -> str:
    """Draws one table for all tests that only read it."""
    return draw_table(str(tmp_path_factory.mktemp("table") / "table")).uri
