"""Planning refuses a corpus in which an id names two images, and says where they are."""

import pyarrow as pa
import pytest
from as_files import encode_table
from corpora import parquet, put, tar
from small_tables import finish, settled
from specs import panoptic_spec

from pipeline.corpora.reading import ReadSettings
from pipeline.maintenance.verify.tables import verify_table
from pipeline.planning.planner import Plan, UnitSettings, plan_corpus, settle_plan
from pipeline.storage import Storage
from pipeline.table.store import TableStore

STORAGE = Storage()
SPEC = panoptic_spec("road", model_fingerprint="f")
UNITS = UnitSettings(unit_images=2)


def plan_identities(corpus: str, table: TableStore, **options) -> Plan:
    return plan_corpus(corpus, table=table, spec=SPEC, reading=ReadSettings(**options), units=UNITS)


def done(corpus: str, table: TableStore, run_id: str, **options) -> None:
    def plan() -> Plan:
        return plan_identities(corpus, table, **options)

    in_force = settle_plan(plan(), plan_again=plan, table=table, run_id=run_id)
    for unit in in_force.units:
        table.storage.write(table.file("images", f"{unit.unit_id}.parquet"), b"")


def manifest_with_ids(*rows: tuple[str, str]) -> bytes:
    return "\n".join(["uri,image_id", *(",".join(row) for row in rows), ""]).encode()


PHOTOS = {"i/p0.jpg": b"0", "i/p1.jpg": b"1", "i/p2.jpg": b"2"}
ROWS = [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    "files",
    [
        {"m.csv": manifest_with_ids(("i/p0.jpg", "a"), ("i/p1.jpg", "a"), ("i/p2.jpg", "b"))},
        {"m.jsonl": b'{"uri":"i/p0.jpg","image_id":1}\n{"uri":"i/p1.jpg","image_id":"1"}\n'},
        {"m.csv": manifest_with_ids(("i/p0.jpg", "i/p1.jpg"), ("i/p1.jpg", ""))},
        {"m.csv": manifest_with_ids(("i/p1.jpg", ""), ("i/p0.jpg", "i/p1.jpg"))},
        {"m.parquet": parquet({"uri": ["i/p0.jpg", "i/p1.jpg"], "image_id": [7, 7]})},
        {"m.csv": manifest_with_ids(("i/p0.jpg", "a"), ("", "a"))},
    ],
)
def test_an_id_that_a_manifest_gives_twice_is_refused(tmp_path, table, files):
    root = put(tmp_path / "c", {**PHOTOS, **files})
    with pytest.raises(ValueError, match=r"an image_id must name one image: .* is that of .* and "):
        plan_identities(f"{root}/{next(iter(files))}", table)


@pytest.mark.parametrize(
    "rows",
    [
        {"m.csv": [("../out/x.jpg", "a")], "n.csv": [("../out/y.jpg", "a")]},
        {"m.csv": [("../out/x.jpg", "i/p0.jpg")]},
        {"a.csv": [("../out/x.jpg", "i/p0.jpg")]},
    ],
)
def test_an_id_of_a_manifest_beside_others_and_images_is_refused(tmp_path, table, rows):
    put(tmp_path / "out", {"x.jpg": b"x", "y.jpg": b"y"})
    files = {name: manifest_with_ids(*each) for name, each in rows.items()}
    root = put(tmp_path / "c", {**PHOTOS, **files})
    with pytest.raises(ValueError, match=r"an image_id must name one image: .*out/x\.jpg"):
        plan_identities(root, table)


def test_an_id_that_could_be_an_archives_members_is_refused(tmp_path, table):
    files = {"s.tar": tar([("a.jpg", b"1")]), "m.csv": manifest_with_ids(("i/p0.jpg", "s.tar/a"))}
    root = put(tmp_path / "c", files | PHOTOS)
    put(tmp_path / "c", {"m.csv": manifest_with_ids(("i/p0.jpg", "s.tar/a"), ("s.tar", ""))})
    with pytest.raises(ValueError, match=r"'s\.tar/a' of .*p0\.jpg; give it another image_id"):
        plan_identities(f"{root}/m.csv", table)


def test_how_many_are_shared_is_said_and_three_are_shown(tmp_path, table):
    rows = [(f"i/{n}.jpg", str(n % 10)) for n in range(30)]
    root = put(tmp_path / "c", {"m.csv": manifest_with_ids(*rows)})
    with pytest.raises(ValueError, match=r"and 1 more.*\(and 7 ids more\); give each its own"):
        plan_identities(f"{root}/m.csv", table)


def test_ids_of_their_own_are_taken(tmp_path, table):
    rows = [("i/p0.jpg", "a"), ("i/p1.jpg", ""), ("i/p2.jpg", "0")]
    root = put(tmp_path / "c", {**PHOTOS, "m.csv": manifest_with_ids(*rows)})
    plan = plan_identities(f"{root}/m.csv", table)
    assert [s.name for unit in plan.units for s in unit.sources] == ["a", "i/p1.jpg", "0"]


KEYED = {"image": ROWS, "id": ["k1", "k2", None]}
REPEATED = {"image": ROWS, "id": ["x", "y", "x"]}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"a.parquet": parquet(KEYED), "b.parquet": parquet(KEYED)}, "'k[12]' is that of .*a.parq"),
        ({"a.parquet": parquet(REPEATED, rows_per_group=1)}, "'x' is that of .*row 0 .*row 2"),
        ({"a.parquet": parquet({"image": ROWS, "id": ["", "", None]})}, "'' is that of .*row 0"),
        ({"a.parquet": parquet({"image": ROWS, "id": ["a.parquet/1", None, "x"]})}, "a.parquet/1"),
        (
            {
                "a.parquet": parquet({"image": ROWS, "id": [1, 2, 3]}),
                "b.parquet": parquet({"image": ROWS, "id": ["1", "5", "6"]}),
            },
            "'1' is that of .*a.parquet, row 0 and .*b.parquet, row 0",
        ),
        (
            {
                "a.parquet": parquet(KEYED),
                "k1": b"",
                "m.csv": manifest_with_ids(("i/p0.jpg", "k1")),
            },
            "'k1'",
        ),
    ],
)  # fmt: skip
def test_a_key_that_comes_again_in_any_file_or_row_group_is_refused(tmp_path, table, files, found):
    root = put(tmp_path / "c", {**files, "e/i/p0.jpg": b"1"})
    if "m.csv" in files:
        put(tmp_path / "c", {"m.csv": manifest_with_ids(("../out.jpg", "k1"))})
    with pytest.raises(ValueError, match=rf"{found}.*leave --key_column out"):
        plan_identities(root, table, key_column="id")
    assert plan_identities(root, table).units


def test_keys_of_their_own_and_nulls_are_taken(tmp_path, table):
    other = parquet({"image": ROWS, "id": ["k3", None, ""]})
    root = put(tmp_path / "c", {"a.parquet": parquet(KEYED), "b.parquet": other})
    assert plan_identities(root, table, key_column="id").num_images == 6


def test_a_key_of_a_file_that_came_later_is_compared_with_those_before(tmp_path, table):
    root = put(tmp_path / "c", {"a.parquet": parquet(KEYED)})
    done(root, table, "1", key_column="id")
    put(tmp_path / "c", {"b.parquet": parquet(KEYED)})
    with pytest.raises(ValueError, match=r"is that of .*a\.parquet, row 0 and .*b\.parquet, row 0"):
        plan_identities(root, table, key_column="id")


def test_keys_are_not_read_again_where_nothing_is_new(tmp_path, table, monkeypatch):
    root = put(tmp_path / "c", {"a.parquet": parquet(KEYED)})
    done(root, table, "1", key_column="id")
    monkeypatch.setattr(Storage, "open", lambda *_, **__: pytest.fail("it was opened"))
    assert plan_identities(root, table, key_column="id").units == ()


def test_a_damaged_file_and_one_without_the_column_keep_their_rows_in_error(tmp_path, table):
    files = {
        "a.parquet": parquet(KEYED),
        "b.parquet": parquet(KEYED)[:-9],
        "c.parquet": parquet({"image": ROWS}),
    }
    root = put(tmp_path / "c", files)
    plan = plan_identities(root, table, key_column="id")
    assert len({s.uri for unit in plan.units for s in unit.sources}) == 3


def test_an_id_that_went_to_another_image_is_refused_while_the_first_is_there(tmp_path, table):
    root = put(tmp_path / "c", {**PHOTOS, "m.csv": manifest_with_ids(("i/p0.jpg", "a"))})
    done(f"{root}/m.csv", table, "1")
    put(tmp_path / "c", {"m.csv": manifest_with_ids(("i/p0.jpg", "b"), ("i/p1.jpg", "a"))})
    with pytest.raises(ValueError, match=r"'a' is that of .*i/p0\.jpg and .*i/p1\.jpg"):
        plan_identities(f"{root}/m.csv", table)
    (tmp_path / "c/i/p0.jpg").unlink()  # moved, and no image of its own any more
    plan = plan_identities(f"{root}/m.csv", table)
    assert "a" in [s.name for unit in plan.units for s in unit.sources]


@pytest.mark.parametrize("name", ["x.jpg", "00000.tar", "t.parquet"])
def test_a_second_corpus_with_the_paths_of_the_first_is_refused(tmp_path, table, name):
    data = {"x.jpg": b"1", "00000.tar": tar([("a.jpg", b"1")]), "t.parquet": parquet(KEYED)}[name]
    first, second = put(tmp_path / "a", {name: data}), put(tmp_path / "b", {name: data})
    done(first, table, "1")
    with pytest.raises(ValueError, match=rf"/a/{name} and .*/b/{name}; label into another table"):
        plan_identities(second, table)
    put(tmp_path / "b", {f"more-{name}": data})
    (tmp_path / "b" / name).unlink()
    assert len(plan_identities(second, table).units) == 1


def test_a_changed_image_keeps_its_id(tmp_path, table):
    root = put(tmp_path / "c", {**PHOTOS, "m.csv": manifest_with_ids(("i/p0.jpg", "a"))})
    done(f"{root}/m.csv", table, "1")
    put(tmp_path / "c", {"i/p0.jpg": b"changed"})
    plan = plan_identities(f"{root}/m.csv", table)
    assert [s.name for unit in plan.units for s in unit.sources] == ["a"]


def test_a_part_of_a_corpus_may_be_labelled_before_the_whole(tmp_path, table):
    root = put(tmp_path / "c", {**PHOTOS, "j/q.jpg": b"3"})
    done(f"{root}/i", table, "1")
    plan = plan_identities(root, table)
    assert [s.name for unit in plan.units for s in unit.sources] == ["j/q.jpg"]


def test_what_planning_lets_through_verify_finds_no_image_of_twice(tmp_path, table):
    column = pa.array([[b"0", b"1"], [], [b"2"]], pa.list_(pa.binary()))
    lists = encode_table(pa.table({"images": column}), row_group_size=1)
    rows = [("i/p0.jpg", "a"), ("i/p1.jpg", ""), ("", "c"), ("ipfs://x/y.jpg", "b"), ("no.jpg", "")]
    root = put(
        tmp_path / "c",
        {"lists.parquet": lists, "m.csv": manifest_with_ids(*rows), "p.jpg": b"3"},
    )
    finish(settled(root, table, "1", unit_images=2).units, table)
    put(tmp_path / "c", {"p.jpg": b"changed", "q.jpg": b"4"})
    finish(settled(root, table, "2", unit_images=2).units, table)
    verdict = verify_table(
        table, sample=1.0, num_threads=1, most_examples=5, on_images=lambda count: None
    )
    assert not {"twice", "source", "planned"} & verdict.findings.counts.keys()
    assert verdict.num_images == 3 + len(rows) + 3
