"""Numbers are printed with the noun and the unit that fit."""

import pytest

from pipeline.runtime.wording import count, data_size


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (3_400_000_000, "3.4 GB"),
        (2 * 10**15, "2,000.0 TB"),
    ],
)
def test_sizes_have_the_unit_that_fits(num_bytes, text):
    assert data_size(num_bytes) == text


def test_one_has_the_singular():
    assert [count(1, "image"), count(2000, "image"), count(2, "box", "boxes")] == [
        "1 image", "2,000 images", "2 boxes",
    ]  # fmt: skip
