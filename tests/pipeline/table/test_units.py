"""Units keep their sources as they were, in little memory."""

import pickle

from pipeline.corpora.sources import Source
from pipeline.table.units import PLAN, SOURCE, PackedSources, Unit, source_table, sources_of

FILES = [
    Source(
        uri=f"s3://photos/2026/day-{n // 100:03}/photograph-{n:06}.jpg",
        name=f"day-{n // 100:03}/photograph-{n:06}.jpg",
        kind="file",
        etag=f"{n * 0x9E3779B97F4A7C15 % 2**128:032x}",
        size=200_000 + n,
        num_images=1,
    )
    for n in range(1000)
]
ARCHIVES = [
    Source(uri="u", name="n", kind="tar", etag="e", size=90, start=10, stop=30, again=2),
    Source(uri="v", name="m", kind="parquet", etag="", size=7, num_images=3),
]


def test_packed_sources_are_the_sources_again():
    sources = [*FILES[:5], *ARCHIVES]
    packed = PackedSources(sources)
    assert (list(packed), len(packed), packed[1], packed[5:]) == (
        sources, 7, sources[1], tuple(sources[5:]),
    )  # fmt: skip
    assert packed == tuple(sources)
    assert packed == PackedSources(sources)
    assert packed != PackedSources(sources[1:])
    assert hash(packed) == hash(PackedSources(sources))
    assert pickle.loads(pickle.dumps(packed)) == packed
    assert sources_of(source_table(sources)) == sources


def test_their_sums_are_known_without_unpacking():
    assert Unit(unit_id="u", sources=FILES[:3]).num_images == 3
    assert Unit(unit_id="u", sources=FILES[:3]).num_bytes == 600_003
    mixed = Unit(unit_id="u", sources=[*FILES[:3], *ARCHIVES])
    assert (mixed.num_images, mixed.num_bytes) == (None, 600_003 + 20 + 7)
    assert Unit(unit_id="u", sources=()).num_images == 0


def test_a_packed_source_takes_less_than_fifty_bytes():
    assert len(pickle.dumps(Unit(unit_id="u", sources=FILES))) < 50 * len(FILES)


def test_a_unit_is_rows_of_a_plan():
    table = Unit(unit_id="u", sources=ARCHIVES, plan_number=4).table(index=7)
    assert table.schema == PLAN
    assert table["unit_index"].to_pylist() == [7, 7]
    assert table["plan_number"].to_pylist() == [4, 4]
    assert table.select(SOURCE.names) == source_table(ARCHIVES)
    assert sources_of(table.drop_columns(["again"])) == [
        Source(uri="u", name="n", kind="tar", etag="e", size=90, start=10, stop=30), ARCHIVES[1],
    ]  # fmt: skip
