"""A corpus's listing names each source once, whatever the kinds, and counts what it passes over."""

import dataclasses
import json

import pytest
from corpora import parquet, put, tar

import pipeline.corpora.corpus
from pipeline.corpora.corpus import (
    ARCHIVE_ENDINGS,
    Listing,
    kind_of,
    list_corpus,
)
from pipeline.corpora.endings import IMAGE_ENDINGS
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import WITHOUT_LOCATIONS
from pipeline.storage import SourceChanged, Storage

STORAGE = Storage()
IMAGES = parquet({"image": [b"1", b"2"]})


def list_sources(
    uri: str, *, storage: Storage = STORAGE, **options
) -> tuple[list[Source], Listing]:
    listing = list_corpus(uri, storage=storage, settings=ReadSettings(**options))
    return list(listing.sources), listing


def source_names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


def csv_of(*uris: str) -> bytes:
    return "\n".join(["uri", *uris, ""]).encode()


def jsonl_of(*rows: dict) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_every_kind_of_source_in_one_prefix_is_found_in_the_order_of_its_path(tmp_path):
    root = put(
        tmp_path / "corpus",
        {
            "b.JPG": b"jpeg",
            "a/deep/c.png": b"png",
            "shard-0.tar": tar([("x.jpg", b"1")]),
            "shard-1.tar.gz": tar([("x.jpg", b"1")], compressed=True),
            "table.parquet": IMAGES,
            "list.csv": csv_of("elsewhere/d.jpg"),
            "elsewhere/d.jpg": b"jpeg",
            "notes.txt": b"hello",
            "more.csv": b"name,age\nAda,36\n",
            "numbers.parquet": parquet({"n": [1, 2]}),
        },
    )
    sources, listing = list_sources(root)
    assert listing.root == root
    assert [(source.name, source.kind) for source in sources] == [
        ("a/deep/c.png", "file"),
        ("b.JPG", "file"),
        ("elsewhere/d.jpg", "file"),
        ("shard-0.tar", "tar"),
        ("shard-1.tar.gz", "tar"),
        ("table.parquet", "parquet"),
    ]
    assert listing.skipped.examples == {
        "of no known kind": [f"{root}/notes.txt"],
        WITHOUT_LOCATIONS: [f"{root}/more.csv", f"{root}/numbers.parquet"],
    }
    assert listing.doubled == [f"{root}/elsewhere/d.jpg"]
    for source in sources:
        file = STORAGE.file(f"{root}/{source.name}")
        assert file is not None
        assert (source.uri, source.etag, source.size) == (file.uri, file.etag, file.size)
        assert (source.start, source.stop) == (0, None)
        assert source.num_images == (1 if source.kind == "file" else None)


@pytest.mark.parametrize("ending", IMAGE_ENDINGS)
def test_images_are_known_by_their_ending_in_any_case(ending):
    assert kind_of(f"s3://bucket/a.b/c.{ending}") == "file"
    assert kind_of(f"/data/C.{ending.upper()}") == "file"
    assert kind_of(f"/data/{ending}") is None


@pytest.mark.parametrize("ending", ARCHIVE_ENDINGS)
def test_archives_are_known_by_their_ending(ending):
    assert kind_of(f"/data/shard.{ending}") == "tar"


def test_hidden_files_and_those_of_other_programs_are_no_part_of_the_corpus(tmp_path):
    root = put(
        tmp_path / "_corpus" / ".hidden",  # the user's own folders may be called as they like
        {
            ".a.jpg": b"1",
            ".git/b.jpg": b"1",
            ".git/config": b"",
            "_temporary/0/c.jpg": b"1",
            "_SUCCESS": b"",
            "_committed_12": b"",
            "._SUCCESS.crc": b"",
            "__MACOSX/._d.jpg": b"1",
            "_delta_log/1.checkpoint.parquet": b"1",
            "d/._d.jpg": b"1",
            "d/.DS_Store": b"1",
            "lost+found/#12.jpg": b"1",
            "$RECYCLE.BIN/S-1-5/$RX.jpg": b"1",
            "d/e_f.g.jpg": b"1",
        },
    )
    sources, listing = list_sources(root)
    assert source_names(sources) == ["d/e_f.g.jpg"]
    assert listing.skipped.counts == {"hidden": 8}
    assert f"{root}/.a.jpg" in listing.skipped.examples["hidden"]


def test_a_name_that_begins_with_an_underscore_is_one_like_others(place):
    storage, root = place
    visible = ["_DSC0001.JPG", "_MG_1.jpg", "_images/x.jpg", "_runs/x.jpg", "a/__b/_c.png", "_.tar"]
    for name in visible:
        storage.write(f"{root}/{name}", b"1")
    sources, listing = list_sources(root, storage=storage)
    assert source_names(sources) == sorted(visible)
    assert not listing.skipped


@pytest.mark.parametrize("folder", ["", "labels/", "a/b/labels/"])
def test_a_segment_table_below_its_own_corpus_is_no_part_of_it(place, folder):
    storage, root = place[0], place[1].rstrip("/")
    rows = parquet({"uri": [f"{root}/a.jpg"], "image_id": ["a.jpg"]})
    left_out = [
        "images/u.parquet", "segments/u.parquet", "_runs/r/plan.parquet", "_staging/u/1.parquet",
        "_compacted/images/c.parquet", "_runs/r/pictures/p.jpg",
    ]  # fmt: skip
    for name in [*left_out, "_runs/r/report.json", "_given_up/begun/u"]:
        storage.write(f"{root}/{folder}{name}", rows)
    storage.write(f"{root}/{folder}_table.json", b"{}")
    for name in ("a.jpg", "images/b.jpg", f"{folder}images/c.jpg", "other/images/d.parquet"):
        storage.write(f"{root}/{name}", IMAGES)
    sources, listing = list_sources(root, storage=storage)
    expected = {"a.jpg", "images/b.jpg", f"{folder}images/c.jpg", "other/images/d.parquet"}
    assert set(source_names(sources)) == expected
    assert listing.skipped.counts == {"in the folder of a segment table": len(left_out)}
    named = listing.skipped.examples["in the folder of a segment table"]
    assert set(named) <= {f"{root}/{folder}{name}" for name in left_out}
    assert listing.doubled == []


def test_a_table_is_looked_for_once_and_only_where_one_may_be(tmp_path):
    class Asked(Storage):
        def file(self, uri):
            asked.append(uri)
            return super().file(uri)

    asked: list[str] = []
    content = {f"{n}/images/{m}.jpg": b"1" for n in range(3) for m in range(3)}
    content |= {f"{n}/segments/{m}.parquet": IMAGES for n in range(2) for m in range(3)}
    root = put(tmp_path / "c", content)
    assert len(list_sources(root, storage=Asked())[0]) == 15
    assert asked == [root, f"{root}/0/_table.json", f"{root}/1/_table.json"]


def test_links_in_a_folder_are_what_they_lead_to(tmp_path):
    away = tmp_path / "away"
    put(away, {"b.jpg": b"b", "deep/c.jpg": b"c", "shard.tar": tar([("x.jpg", b"1")])})
    root = put(tmp_path / "c", {"a.jpg": b"a"})
    for name, target in {
        "a-again.jpg": "a.jpg", "b.jpg": "../away/b.jpg", "folder": "../away", "gone.jpg": "no.jpg",
        "gone.parquet": "no", "gone.csv": "no", "gone-folder": "no", "self.jpg": "self.jpg",
    }.items():  # fmt: skip
        (tmp_path / "c" / name).symlink_to(target)
    (away / "deep" / "around").symlink_to("..")
    (tmp_path / "c" / "whole").symlink_to("/")
    sources, listing = list_sources(root)
    assert [(source.name, source.kind, source.size) for source in sources] == [
        ("a-again.jpg", "file", 1),
        ("a.jpg", "file", 1),
        ("b.jpg", "file", 1),
        ("folder/b.jpg", "file", 1),
        ("folder/deep/c.jpg", "file", 1),
        ("folder/shard.tar", "tar", 10240),
        ("gone.jpg", "file", 0),
        ("gone.parquet", "parquet", 0),
        ("self.jpg", "file", 0),
    ]
    assert [source.name for source in sources if not source.etag] == [
        "gone.jpg",
        "gone.parquet",
        "self.jpg",
    ]
    assert listing.skipped.examples == {
        "of no known kind": [f"{root}/gone-folder", f"{root}/gone.csv"]
    }


def test_a_cache_of_the_hub_is_read_through_its_links(tmp_path):
    root = put(tmp_path / "datasets--x--y", {"blobs/5d3e": IMAGES})
    data = tmp_path / "datasets--x--y" / "snapshots" / "abc" / "data"
    data.mkdir(parents=True)
    (data / "train.parquet").symlink_to("../../../blobs/5d3e")
    sources, listing = list_sources(root)
    assert [(s.name, s.kind) for s in sources] == [("snapshots/abc/data/train.parquet", "parquet")]
    assert listing.skipped.examples == {"of no known kind": [f"{root}/blobs/5d3e"]}


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.jpg", b"1", "file"),
        ("a.tar", tar([("x.jpg", b"1")]), "tar"),
        ("a.parquet", IMAGES, "parquet"),
    ],
)
def test_a_single_source_is_a_corpus(tmp_path, name, data, kind):
    root = put(tmp_path, {name: data, "other.jpg": b"2"})
    sources, listing = list_sources(f"{root}/{name}")
    assert [(source.name, source.kind) for source in sources] == [(name, kind)]
    assert listing.root == root


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(place):
    storage, root = place
    storage.write(f"{root}/train/a.jpg", b"1")
    storage.write(f"{root}/train-2/b.jpg", b"1")
    sources, _ = list_sources(f"{root}/train", storage=storage)
    assert source_names(sources) == ["a.jpg"]
    assert source_names(list_sources(f"{root}/train/", storage=storage)[0]) == ["a.jpg"]


@pytest.mark.parametrize("content", [{}, {"a.txt": b"1"}, {"a.csv": csv_of()}])
def test_a_corpus_may_be_empty(tmp_path, content):
    tmp_path.joinpath("corpus").mkdir()
    root = put(tmp_path / "corpus", content)
    sources, listing = list_sources(root)
    assert sources == []
    assert listing.skipped.counts.total() == ("a.txt" in content)


def test_a_corpus_that_is_not_there_is_empty(place):
    storage, root = place
    assert list_sources(f"{root}/no", storage=storage)[0] == []


MANIFESTS = {
    "list.csv": lambda rows: (
        b"\xef\xbb\xbf"
        + "\n".join(
            ["image_id,extra,uri"] + [f"{row.get('image_id', '')},x,{row['uri']}" for row in rows]
        ).encode()
    ),
    "list.jsonl": lambda rows: jsonl_of(*rows).replace(b"\n", b"\n\n"),
    "list.ndjson": lambda rows: jsonl_of(*rows),
    "list.parquet": lambda rows: parquet(
        {"uri": [r["uri"] for r in rows], "image_id": [r.get("image_id") for r in rows]}
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_names_sources_of_any_kind_anywhere(tmp_path, name):
    root = put(
        tmp_path / "lists",
        {"near.jpg": b"near", "sub/shard.tar": tar([("x.jpg", b"1")]), "t.parquet": IMAGES},
    )
    far = put(tmp_path / "far", {"away.jpg": b"away", "no-ending": b"jpeg all the same"})
    rows = [
        {"uri": "near.jpg"},
        {"uri": f"{far}/away.jpg", "image_id": "my-own-id"},
        {"uri": f"file://{far}/no-ending"},
        {"uri": "sub/shard.tar"},
        {"uri": "t.parquet"},
        {"uri": "missing.jpg"},
        {"uri": "../far/away.jpg"},
    ]
    put(tmp_path / "lists", {name: MANIFESTS[name](rows)})
    sources, listing = list_sources(f"{root}/{name}")
    assert [(source.name, source.kind, source.uri) for source in sources] == [
        ("near.jpg", "file", f"{root}/near.jpg"),
        ("my-own-id", "file", f"{far}/away.jpg"),
        (f"{far}/no-ending", "file", f"{far}/no-ending"),
        ("sub/shard.tar", "tar", f"{root}/sub/shard.tar"),
        ("t.parquet", "parquet", f"{root}/t.parquet"),
        ("missing.jpg", "file", f"{root}/missing.jpg"),
    ]
    assert listing.doubled == [f"{far}/away.jpg"]
    missing = sources[-1]
    assert (missing.etag, missing.size) == ("", 0)
    assert all(source.etag for source in sources[:-1])


@pytest.mark.parametrize("name", ["list.jsonl", "list.parquet"])
def test_ids_in_a_manifest_may_be_numbers(tmp_path, name):
    rows = [{"uri": "a.jpg", "image_id": 17}, {"uri": "b.jpg", "image_id": 0}]
    root = put(tmp_path, {"a.jpg": b"1", "b.jpg": b"2", name: MANIFESTS[name](rows)})
    assert source_names(list_sources(f"{root}/{name}")[0]) == ["17", "0"]


def test_a_manifest_on_s3_names_neighbours_and_other_buckets(s3_storage):
    root = "s3://test/manifests"
    s3_storage.write(f"{root}/images/a.jpg", b"1")
    s3_storage.write("s3://test/others/b.jpg", b"2")
    s3_storage.write(f"{root}/list.csv", csv_of("images/a.jpg", "s3://test/others/b.jpg", "no.jpg"))
    sources, _ = list_sources(f"{root}/list.csv", storage=s3_storage)
    assert [(source.name, source.size) for source in sources] == [
        ("images/a.jpg", 1),
        ("s3://test/others/b.jpg", 1),
        ("no.jpg", 0),
    ]


def test_a_long_manifest_keeps_its_order(tmp_path):
    files = {f"{number:04}.jpg": b"1" for number in range(700)}
    order = sorted(files, key=lambda name: name[::-1])
    root = put(tmp_path, {**files, "list.csv": csv_of(*order)})
    assert source_names(list_sources(f"{root}/list.csv")[0]) == order


@pytest.mark.parametrize("data", [b"", b"no json", b'{"url": 1}', b"[1]", b"\xff\xfe\x00"])
def test_a_jsonl_file_without_locations_is_skipped(tmp_path, data):
    root = put(tmp_path, {"list.jsonl": data})
    sources, listing = list_sources(root)
    assert sources == []
    assert listing.skipped.examples == {WITHOUT_LOCATIONS: [f"{root}/list.jsonl"]}


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\x00\x01\x02", b"x" * 200_000])
def test_a_csv_file_without_locations_is_skipped(tmp_path, data):
    root = put(tmp_path, {"list.csv": data})
    sources, listing = list_sources(root)
    assert sources == []
    assert listing.skipped.examples == {WITHOUT_LOCATIONS: [f"{root}/list.csv"]}


@pytest.mark.parametrize("data", [b"", b"no Parquet", IMAGES[:-20], IMAGES[:40] + IMAGES[60:]])
def test_a_damaged_parquet_file_stays_a_source_so_that_it_gets_a_row(tmp_path, data):
    root = put(tmp_path, {"a.parquet": data})
    sources, listing = list_sources(root)
    assert [(source.name, source.kind) for source in sources] == [("a.parquet", "parquet")]
    assert not listing.skipped


def test_a_parquet_file_with_bytes_and_locations_holds_images(tmp_path):
    root = put(tmp_path, {"a.parquet": parquet({"image": [b"1"], "uri": ["http://origin/1.jpg"]})})
    sources, _ = list_sources(root)
    assert [(source.name, source.kind) for source in sources] == [("a.parquet", "parquet")]


def test_the_column_of_images_may_be_named(tmp_path):
    root = put(tmp_path, {"a.parquet": parquet({"one": [b"1"], "two": [b"2"]})})
    assert list_sources(root)[1].skipped.examples == {WITHOUT_LOCATIONS: [f"{root}/a.parquet"]}
    assert source_names(list_sources(root, image_column="two")[0]) == ["a.parquet"]


def test_a_source_has_the_same_etag_until_it_changes(tmp_path):
    root = put(tmp_path, {"a.jpg": b"1", "b.jpg": b"1"})
    before, _ = list_sources(root)
    assert list_sources(root)[0] == before
    put(tmp_path, {"a.jpg": b"12"})
    after, _ = list_sources(root)
    assert after[1] == before[1]
    assert dataclasses.replace(after[0], etag=before[0].etag, size=1) == before[0]
    assert after[0].etag != before[0].etag


def test_what_reads_a_source_that_changed_since_is_told(tmp_path):
    root = put(tmp_path, {"a.jpg": b"1"})
    (source,), _ = list_sources(root)
    put(tmp_path, {"a.jpg": b"12"})
    with pytest.raises(SourceChanged):
        STORAGE.read(source.uri, etag=source.etag)


def test_of_many_files_that_are_no_images_the_first_are_named_and_all_counted(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline.corpora.corpus, "_MOST_NAMED", 2)
    root = put(
        tmp_path / "c",
        {
            **{f"{n}.jpg": b"1" for n in range(5)},
            **{f"{n}.txt": b"" for n in range(9)},
            "list.csv": csv_of(*(f"{n}.jpg" for n in range(5))),
        },
    )
    sources, listing = list_sources(root)
    assert len(sources) == 5
    assert listing.skipped.to_dict() == {
        "of no known kind": {"count": 9, "examples": [f"{root}/{n}.txt" for n in range(5)]}
    }
    assert listing.doubled == [f"{root}/0.jpg", f"{root}/1.jpg"]
    assert listing.more_doubled == 3


def test_what_a_prefix_has_is_taken_under_its_path_wherever_its_manifest_stands(tmp_path):
    """Not every store lists in the order of names."""
    entries = [{"uri": "a.jpg", "image_id": "first"}, {"uri": "z.jpg", "image_id": "last"}]
    root = put(tmp_path / "c", {"a.jpg": b"1", "m.jsonl": jsonl_of(*entries), "z.jpg": b"1"})
    sources, listing = list_sources(root)
    assert source_names(sources) == ["a.jpg", "z.jpg"]
    assert listing.doubled == [f"{root}/a.jpg", f"{root}/z.jpg"]
