"""Reading gives every image of a source once, and every fault a row or an exception."""

import dataclasses
import gzip
import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import parquet
from drawn_archives import tar_in_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpora.parquet_images import bytes_column, parquet_groups, parquet_schema
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Kind, Source
from pipeline.runtime.skips import SkipCounts
from pipeline.storage import SourceChanged, Storage, StorageFault

STORAGE = Storage()


def put_source(path: Path, data: bytes, *, kind: Kind = "file") -> Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    file = STORAGE.file(str(path))
    assert file is not None
    return Source(uri=file.uri, name=path.name, kind=kind, etag=file.etag, size=file.size)


def read_images(source: Source, **options) -> list[EncodedImage]:
    return list(read_source(source, storage=STORAGE, settings=ReadSettings(**options)))


def image_errors(images: list[EncodedImage]) -> list[tuple[str, str]]:
    return [(image.image_id, image.error.error_class) for image in images if image.error]


def data_by_id(images: list[EncodedImage]) -> dict[str, bytes | None]:
    assert len({image.image_id for image in images}) == len(images)
    return {image.image_id: image.data for image in images if image.error is None}


def test_a_file_is_one_image_with_its_path_as_id(tmp_path):
    source = put_source(tmp_path / "a.jpg", b"bytes")
    (image,) = read_images(dataclasses.replace(source, name="day/a.jpg"))
    assert (image.image_id, image.member, image.data) == ("day/a.jpg", None, b"bytes")
    assert (image.uri, image.etag, image.error) == (source.uri, source.etag, None)


def test_what_was_not_there_when_the_corpus_was_listed_is_an_error_of_the_image(tmp_path):
    for kind in ("file", "tar", "parquet"):
        gone = Source(uri=str(tmp_path / "no"), name="no", kind=kind, etag="", size=0)
        (image,) = read_images(gone)
        assert image_errors([image]) == [("no", "NotFound")]
        assert str(tmp_path / "no") in image.error.message


@pytest.mark.parametrize("kind", ["file", "tar", "parquet"])
def test_what_changed_or_went_since_then_is_no_error_of_any_image(tmp_path, kind):
    source = put_source(tmp_path / "a", b"bytes", kind=kind)
    with pytest.raises(SourceChanged):
        read_images(dataclasses.replace(source, etag="another"))
    os.remove(tmp_path / "a")
    with pytest.raises(SourceChanged):
        read_images(source)


@pytest.mark.parametrize("kind", ["file", "tar", "parquet"])
@pytest.mark.parametrize("reads", [0, 1, 2, 5])
def test_a_fault_of_storage_passes_through_whenever_it_comes(tmp_path, kind, reads):
    noise = {f"{index}.jpg": os.urandom(30_000) for index in range(9)}
    content = {
        "file": b"bytes",
        "tar": tar_in_format(noise),
        "parquet": parquet({"image": list(noise.values())}, rows_per_group=1),
    }[kind]
    source = put_source(tmp_path / "a", content, kind=kind)

    class Flaky(Storage):
        def read(self, uri, **_):
            raise StorageFault("away")

        def open(self, uri, **_):
            return FlakyFile(content)

    class FlakyFile(io.BytesIO):
        left = reads

        def read(self, size=-1):
            if self.left == 0:
                raise StorageFault("away")
            self.left -= 1
            return super().read(size)

    with pytest.raises(StorageFault):
        list(read_source(source, storage=Flaky(), settings=ReadSettings()))


def test_a_fault_of_the_local_disk_is_a_fault_of_storage(tmp_path):
    source = put_source(tmp_path / "a.parquet", parquet({"image": [b"1"]}), kind="parquet")

    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    class BrokenDisk(Storage):
        def open(self, uri, **_):
            return Broken(b"PAR1" * 100)

    with pytest.raises(StorageFault, match=r"a\.parquet"):
        list(read_source(source, storage=BrokenDisk(), settings=ReadSettings()))


def test_a_tar_gives_images_by_key_and_says_which_keys_have_none(tmp_path):
    files = {"a/1.jpg": b"1", "a/1.png": b"labels", "a/2.json": b"{}", "3.PNG": b"3"}
    source = put_source(tmp_path / "shard.tar", tar_in_format(files), kind="tar")
    skipped = SkipCounts()
    images = list(read_source(source, storage=STORAGE, settings=ReadSettings(), skipped=skipped))
    assert data_by_id(images) == {"shard.tar/a/1": b"1", "shard.tar/3": b"3"}
    assert [image.member for image in images] == ["a/1.jpg", "3.PNG"]
    assert skipped.examples == {
        "beside the image of the same name": [f"{source.uri}, member a/1.png"],
        "of no known kind": [f"{source.uri}, member a/2.json"],
    }
    labels = read_images(source, image_members=("png",))
    assert data_by_id(labels) == {"shard.tar/a/1": b"labels", "shard.tar/3": b"3"}


@pytest.mark.parametrize(
    ("name", "kind", "compress"),
    [("a.tar", "tar", bytes), ("a.tgz", "tar", gzip.compress), ("a.parquet", "parquet", bytes)],
)
def test_a_remote_store_gives_the_images_that_a_disk_gives(tmp_path, name, kind, compress):
    noise = {f"{index}.jpg": os.urandom(30_000 + 9_999 * index) for index in range(30)}
    content = compress(
        tar_in_format(noise) if kind == "tar" else parquet({"image": list(noise.values())})
    )
    local = put_source(tmp_path / name, content, kind=kind)
    uri = f"memory://reading/{name}"
    STORAGE.write(uri, content)
    file = STORAGE.file(uri)
    assert file is not None
    remote = dataclasses.replace(local, uri=uri, etag=file.etag)
    assert data_by_id(read_images(remote)) == data_by_id(read_images(local))
    assert len(read_images(remote)) == 30


def test_a_slice_of_a_tar_without_images_is_counted_with_its_bytes(tmp_path):
    members = {"a.jpg": b"a", "b.txt": b"b", "c.cls": b"c"}
    whole = put_source(tmp_path / "a.tar", tar_in_format(members), kind="tar")
    skipped = SkipCounts()
    found = []
    for start, stop in ((0, 1024), (1024, 2048), (2048, None)):
        part = whole.sliced(start=start, stop=stop)
        found += read_source(part, storage=STORAGE, settings=ReadSettings(), skipped=skipped)
    assert data_by_id(found) == {"a.tar/a": b"a"}
    assert skipped.examples["a part of an archive without images"] == [
        f"{whole.uri}, from byte 1024 to byte 2048",
        f"{whole.uri}, from byte 2048 to the end",
    ]
    assert skipped.counts["of no known kind"] == 2


def test_a_truncated_tar_keeps_its_images_and_adds_a_row_that_names_the_place(tmp_path):
    whole = tar_in_format({"1.jpg": b"1" * 600, "2.jpg": b"2" * 600})
    for cut in range(0, 2 * 1536 + 1, 512):
        source = put_source(tmp_path / "shard.tar", whole[:cut], kind="tar")
        *images, last = read_images(source)
        assert len(images) == (cut >= 1536) + (cut >= 3072)
        assert all(image.error is None for image in images)
        offset = {0: 0, 1: 1536, 2: 3072}[len(images)]
        assert image_errors([last]) == [(f"shard.tar@{offset}", "TruncatedArchive")]
        assert last.member is None
        assert source.uri in last.error.message
        assert str(offset) in last.error.message


def test_a_damaged_tar_and_one_that_is_none_say_what_they_are(tmp_path):
    whole = bytearray(tar_in_format({"1.jpg": b"1", "2.jpg": b"2"}))
    whole[1024] ^= 1
    images = read_images(put_source(tmp_path / "a.tar", bytes(whole), kind="tar"))
    assert image_errors(images) == [("a.tar@1024", "DamagedArchive")]
    (image,) = read_images(
        put_source(tmp_path / "b.tar", b"<!DOCTYPE html>" + b" " * 2000, kind="tar")
    )
    assert "HTML" in image.error.message


def test_each_image_that_repeats_a_key_has_a_row_with_an_id_of_its_own(tmp_path):
    files = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("a.jpg", b"4")]
    images = read_images(put_source(tmp_path / "s.tar", tar_in_format(files), kind="tar"))
    assert data_by_id(images) == {"s.tar/a": b"1", "s.tar/b": b"2"}
    assert image_errors(images) == [
        ("s.tar/a@2048", "DuplicateKey"),
        ("s.tar/a@3072", "DuplicateKey"),
    ]


def test_an_image_larger_than_allowed_is_an_error_that_says_how_to_allow_it(tmp_path):
    large = b"x" * 11
    sources = [
        put_source(tmp_path / "a.jpg", large),
        put_source(tmp_path / "a.tar", tar_in_format({"a.jpg": large}), kind="tar"),
        put_source(tmp_path / "a.parquet", parquet({"image": [large]}), kind="parquet"),
    ]
    for source in sources:
        (image,) = read_images(source, max_image_bytes=10)
        assert image.data is None
        assert image.error.error_class == "TooLarge"
        assert "max_image_bytes" in image.error.message
        assert data_by_id(read_images(source, max_image_bytes=11))


def test_parquet_rows_are_images_by_number_or_by_key(tmp_path):
    rows = {"image": [b"0", b"1", b"2"], "id": ["x", "y", None]}
    source = put_source(tmp_path / "a.parquet", parquet(rows, rows_per_group=2), kind="parquet")
    numbered = {"a.parquet/0": b"0", "a.parquet/1": b"1", "a.parquet/2": b"2"}
    assert data_by_id(read_images(source)) == numbered
    assert data_by_id(read_images(source, key_column="id")) == {
        "x": b"0",
        "y": b"1",
        "a.parquet/2": b"2",
    }


def test_parquet_rows_without_bytes_or_with_the_key_of_another_are_errors(tmp_path):
    rows = {"image": [b"0", None, b"", b"3"], "id": ["x", "y", "z", "x"]}
    source = put_source(tmp_path / "a.parquet", parquet(rows), kind="parquet")
    images = read_images(source, key_column="id")
    assert data_by_id(images) == {"x": b"0"}
    assert image_errors(images) == [
        ("y", "EmptyFile"),
        ("z", "EmptyFile"),
        ("a.parquet/3", "DuplicateKey"),
    ]
    assert "row 1" in images[1].error.message


def test_images_of_hugging_face_datasets_are_read(tmp_path):
    image = pa.array(
        [{"bytes": b"0", "path": "0.jpg"}, {"bytes": None, "path": "1.jpg"}, None],
        type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    source = put_source(
        tmp_path / "a.parquet", parquet({"image": image, "n": [0, 1, 2]}), kind="parquet"
    )
    images = read_images(source)
    assert data_by_id(images) == {"a.parquet/0": b"0"}
    assert image_errors(images) == [("a.parquet/1", "EmptyFile"), ("a.parquet/2", "EmptyFile")]


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"image": pa.binary(), "mask": pa.binary()}, {}, "image"),
        ({"photo": pa.large_binary(), "label": pa.string()}, {}, "photo"),
        ({"photo": pa.binary(), "mask": pa.binary()}, {}, None),
        ({"photo": pa.binary(), "mask": pa.binary()}, {"image_column": "mask"}, "mask"),
        ({"photo": pa.binary(), "key": pa.binary()}, {"key_column": "key"}, "photo"),
        ({"image": pa.string(), "jpg": pa.binary()}, {}, "jpg"),
        ({"image": pa.struct([("bytes", pa.binary())])}, {}, "image"),
        ({"image": pa.struct([("path", pa.string())])}, {}, None),
        ({"image": pa.binary()}, {"image_column": "photo"}, None),
        ({"uri": pa.string()}, {}, None),
    ],
)
def test_the_column_of_images_is_found_by_name_and_type(columns, options, expected):
    found = bytes_column(pa.schema(list(columns.items())), settings=ReadSettings(**options))
    assert found == expected


def test_a_column_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path):
    source = put_source(
        tmp_path / "a.parquet", parquet({"image": [b"0"], "n": [1]}), kind="parquet"
    )
    for options, error_class in [
        ({"image_column": "photo"}, "NoImageColumn"),
        ({"key_column": "id"}, "NoKeyColumn"),
    ]:
        (image,) = read_images(source, **options)
        assert image_errors([image]) == [("a.parquet", error_class)]
        assert "image, n" in image.error.message


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    num_rows=st.integers(1, 50),
    rows_per_group=st.integers(1, 50),
    cuts=st.sets(st.integers(1, 49)),
)
def test_slices_hold_every_row_of_the_whole_once(tmp_path, num_rows, rows_per_group, cuts):
    rows = {"image": [f"image {row}".encode() for row in range(num_rows)]}
    source = put_source(
        tmp_path / "a.parquet", parquet(rows, rows_per_group=rows_per_group), kind="parquet"
    )
    bounds = [0, *sorted(cut for cut in cuts if cut < num_rows), None]
    parts = [
        image
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)  # noqa: RUF007
        for image in read_images(dataclasses.replace(source, start=start or 0, stop=stop))
    ]
    assert parts == read_images(source)
    assert [image.data for image in parts] == rows["image"]


def test_a_corrupt_parquet_file_is_one_error_that_names_it(tmp_path):
    whole = parquet({"image": [os.urandom(500) for _ in range(20)]})
    for damaged in (b"", b"PAR1", whole[:-10], b"no Parquet at all" * 9, bytes(len(whole))):
        source = put_source(tmp_path / "a.parquet", damaged, kind="parquet")
        (image,) = read_images(source)
        assert image_errors([image]) == [("a.parquet", "DamagedParquet")]
        assert source.uri in image.error.message
        assert not parquet_groups(io.BytesIO(damaged), settings=ReadSettings()).rows_and_bytes
        assert parquet_schema(io.BytesIO(damaged)) is None
    assert parquet_schema(io.BytesIO(whole)).names == ["image"]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 255)), min_size=1, max_size=4))
def test_random_damage_to_a_parquet_file_is_never_any_other_error(changes):
    whole = bytearray(parquet({"image": [b"%d" % row * 40 for row in range(10)]}))
    for back, value in changes:  # from the end, where the footer is
        whole[-min(back, len(whole))] = value
    source = Source(uri="a", name="a", kind="parquet", etag="1", size=len(whole))

    class Held(Storage):
        def open(self, uri, **_):
            return io.BytesIO(whole)

    images = list(read_source(source, storage=Held(), settings=ReadSettings()))
    assert len(images) == 10 or image_errors(images)
    parquet_groups(io.BytesIO(whole), settings=ReadSettings())


def test_rows_before_a_damaged_row_group_are_kept(tmp_path):
    rows = [os.urandom(500) for _ in range(12)]
    whole = bytearray(parquet({"image": rows}))
    offset = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(0).data_page_offset
    whole[offset : offset + 40] = b"\xff" * 40
    *images, last = read_images(put_source(tmp_path / "a.parquet", bytes(whole), kind="parquet"))
    assert [image.data for image in images] == rows[:4]
    assert image_errors([last]) == [("a.parquet@4", "DamagedParquet")]


def test_row_groups_are_told_with_their_rows_and_bytes():
    data = parquet({"image": [os.urandom(1000) for _ in range(10)]})
    groups = parquet_groups(io.BytesIO(data), settings=ReadSettings()).rows_and_bytes
    assert [rows for rows, _ in groups] == [4, 4, 2]
    assert all(1000 * rows <= size < 3000 * rows for rows, size in groups)


def test_settings_without_sense_are_refused():
    with pytest.raises(ValueError, match="max_image_bytes"):
        ReadSettings(max_image_bytes=0)
    with pytest.raises(ValueError, match="image_members"):
        ReadSettings(image_members=())


def test_of_an_archive_no_more_is_read_than_the_images_that_are_asked_for(tmp_path):
    source = put_source(
        tmp_path / "a.tar", tar_in_format({f"{i}.jpg": bytes(2**16) for i in range(50)}), kind="tar"
    )
    reads = []

    class Counting(Storage):
        def open(self, uri, **options):
            file = super().open(uri, **options)

            class Counted(io.BufferedReader):
                def read(self, size=-1):
                    reads.append(size)
                    return super().read(size)

            return Counted(file.detach())

    images = read_source(source, storage=Counting(), settings=ReadSettings())
    next(images)
    assert sum(reads) < 3 * 2**16
