"""A plan cuts a corpus into units within bounds, or says that there is nothing to label."""

import dataclasses

import pytest
from corpora import parquet, put, tar
from planned_corpora import SPEC, STORAGE, images_in, named_files, plan_with, shard, whole_corpus

from pipeline.corpora.sources import Source
from pipeline.planning.planner import UnitSettings, unit_id
from pipeline.table.store import TableStore


def test_units_are_bounded_in_images_and_keep_the_order(tmp_path, table):
    corpus = put(tmp_path / "c", named_files(*(f"{n:02}.jpg" for n in range(10))))
    plan = plan_with(corpus, table)
    assert [unit.num_images for unit in plan.units] == [3, 3, 3, 1]
    assert images_in(plan.units) == [f"{n:02}.jpg" for n in range(10)]
    assert (plan.num_images, plan.done) == (10, 0)


def test_units_are_bounded_in_bytes(tmp_path, table):
    corpus = put(tmp_path / "c", {f"{n}.jpg": bytes(size) for n, size in enumerate([4, 4, 9, 2])})
    plan = plan_with(corpus, table, units=UnitSettings(unit_images=100, unit_bytes=8))
    assert [[s.name for s in u.sources] for u in plan.units] == [
        ["0.jpg", "1.jpg"], ["2.jpg"], ["3.jpg"],
    ]  # fmt: skip
    assert [unit.num_bytes for unit in plan.units] == [8, 9, 2]


def test_small_archives_share_a_unit_and_a_large_one_is_cut_where_samples_begin(tmp_path, table):
    corpus = put(
        tmp_path / "c", {"0.tar": shard(2), "1.tar": shard(2), "2.tar": shard(40, size=3000)}
    )
    bound = 25_000
    plan = plan_with(corpus, table, units=UnitSettings(unit_images=100, unit_bytes=bound))
    assert [source.name for source in plan.units[0].sources] == ["0.tar", "1.tar"]
    assert len(plan.units) > 4
    for unit in plan.units[1:]:
        (source,) = unit.sources
        assert source.name == "2.tar"
        assert 0 < unit.num_bytes <= bound
        assert unit.num_images == len(images_in([unit]))
    assert images_in(plan.units) == whole_corpus(corpus)


def test_a_plan_cuts_a_parquet_file_between_row_groups(tmp_path, table):
    rows = {"image": [f"{n}".encode() for n in range(10)]}
    corpus = put(tmp_path / "c", {"a.parquet": parquet(rows, rows_per_group=2)})
    plan = plan_with(corpus, table, units=UnitSettings(unit_images=5))
    assert [(s.start, s.stop) for u in plan.units for s in u.sources] == [(0, 4), (4, 8), (8, None)]
    assert [unit.num_images for unit in plan.units] == [4, 4, 2]
    assert images_in(plan.units) == [f"a.parquet/{n}" for n in range(10)]


def test_ids_depend_on_sources_and_table_and_on_nothing_else(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    (first, second) = plan_with(corpus, table).units
    elsewhere = TableStore(str(tmp_path / "other"), STORAGE)
    assert plan_with(corpus, elsewhere).units == (first, second)
    assert first.unit_id != second.unit_id
    assert first.unit_id == unit_id(first.sources, spec=SPEC)
    other = dataclasses.replace(SPEC, threshold=0.6)
    assert unit_id(first.sources, spec=other) != first.unit_id
    source = first.sources[0]
    for change in ({"uri": "x"}, {"etag": "x"}, {"start": 1}, {"stop": 1}):
        changed = (dataclasses.replace(source, **change), *first.sources[1:])
        assert unit_id(changed, spec=SPEC) != first.unit_id


@pytest.mark.parametrize(
    ("schema", "expected"), [(1, "601815a399c9c454cc9d9568"), (2, "09a374ec407bbcf23ef21ad2")]
)
def test_an_id_is_the_same_in_every_version(schema, expected):
    source = Source(uri="s3://b/a.tar", name="a.tar", kind="tar", etag="e", size=9, stop=5)
    assert unit_id([source], spec=dataclasses.replace(SPEC, schema_version=schema)) == expected


def test_a_corpus_with_nothing_to_label_is_refused_with_what_was_found(tmp_path, table):
    corpus = put(tmp_path / "c", named_files("a.txt", "b.doc"))
    with pytest.raises(
        ValueError, match=r"no image.* at .*/c; 2 files \(of no known kind\), as .*a\.txt"
    ):
        plan_with(corpus, table)
    with pytest.raises(ValueError, match="no image, archive, Parquet file or manifest"):
        plan_with(f"{corpus}/nowhere", table)


def test_what_is_passed_over_or_named_twice_is_told(tmp_path, table):
    corpus = put(tmp_path / "c", {**named_files("a.jpg", "b.txt"), "c.csv": b"uri\na.jpg\n"})
    plan = plan_with(corpus, table)
    assert plan.skipped.examples == {"of no known kind": [f"{corpus}/b.txt"]}
    assert plan.doubled == (f"{corpus}/a.jpg",)
    assert images_in(plan.units) == ["a.jpg"]


@pytest.mark.parametrize("name", ["unit_images", "unit_bytes"])
def test_a_bound_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        UnitSettings(**{name: 0})


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 11, 12, 100])
def test_a_limit_takes_the_first_images_of_whatever_kind(tmp_path, table, limit):
    corpus = put(
        tmp_path / "c",
        {
            "0.jpg": b"0",
            "1.tar": shard(4),
            "2.tar.gz": tar([(f"{n}.png", b"1") for n in range(3)], compressed=True),
            "3.parquet": parquet({"image": [b"1"] * 3}, rows_per_group=2),
            "4.jpg": b"4",
        },
    )
    plan = plan_with(corpus, table, limit=limit)
    assert images_in(plan.units) == whole_corpus(corpus)[:limit]
    assert plan.num_images == min(limit, 12)


@pytest.mark.parametrize("data", [tar([]), b"<html>", b"", shard(3)[:550]])
def test_a_limit_passes_archives_without_images(tmp_path, table, data):
    corpus = put(tmp_path / "c", {"0.tar": data, **named_files("1.jpg", "2.jpg")})
    plan = plan_with(corpus, table, limit=1, units=UnitSettings(unit_bytes=1))
    assert [s.name for unit in plan.units for s in unit.sources] == ["0.tar", "1.jpg"]


def test_an_archive_with_repeated_keys_is_not_cut(tmp_path, table):
    doubled = tar([(f"{n % 30:02}.jpg", bytes(1000)) for n in range(40)])
    corpus = put(tmp_path / "c", {"0.tar": doubled})
    plan = plan_with(corpus, table, units=UnitSettings(unit_bytes=10_000))
    assert [(s.start, s.stop) for u in plan.units for s in u.sources] == [(0, None)]
