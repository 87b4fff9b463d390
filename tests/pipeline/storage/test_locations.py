"""A location that nothing can be at is refused with what was given, found and is to be typed."""

import pytest
from corpora import put

from pipeline.storage import Storage
from pipeline.storage.locations import (
    check_folder_location,
    check_location,
    describe_nearest_folder,
)
from pipeline.table.store import TableStore

STORAGE = Storage()


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("", "must be a path or URL, got ''"),
        ("a\0b", "NUL"),
        ("ipfs://Qm/x", "no protocol ipfs://"),
        ("s3://", "must name a bucket .* as s3://bucket/folder, got s3://"),
        ("s3:///folder", "must name a bucket"),
        ("s3://buck*/x", "must name a bucket"),
        ("s3:/bucket/x", "one slash, got s3:/bucket/x; type two"),
    ],
)
def test_what_is_no_location_is_refused(location, found):
    with pytest.raises(ValueError, match=rf"the corpus .*{found}"):
        check_location(location, setting="the corpus")


@pytest.mark.parametrize(
    "location",
    [
        "a",
        "/a b/c",
        "s3://bucket",
        "s3a://bucket/x",
        "gs://b/x",
        "C:/x",
        "http://h/a?b=c",
        "S3://bucket/x",
    ],
)
def test_what_may_be_a_location_is_left_to_the_storage(location):
    check_location(location, setting="the corpus")


def test_a_table_cannot_be_made_where_something_else_is(tmp_path):
    root = put(tmp_path, {"file": b"1"})
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for place, found in [
        ("file", f"{root}/file is a file; name another"),
        ("file/table", f"{root}/file is a file; name another"),
        ("dangling", f"{root}/dangling is a link to nowhere, which is not there"),
        ("dangling/table", f"{root}/dangling is a link to nowhere, which is not there"),
    ]:
        with pytest.raises(ValueError, match=f"the table must be a folder .*, but {found}"):
            TableStore(f"{root}/{place}", STORAGE)
    with pytest.raises(ValueError, match="a place to write to, got http://"):
        check_folder_location("http://127.0.0.1/table", setting="the table")
    for place in ("folder", "link", "new", "link/new/deep"):
        TableStore(f"{root}/{place}", STORAGE)


def test_a_wrong_path_is_told_with_describe_nearest_folder(tmp_path):
    names = ["photo-2023", "photos-2024", "photos-2025", "aaa", "bbb"]
    root = put(tmp_path, {f"{name}/a.jpg": b"1" for name in names})
    near = describe_nearest_folder(f"{root}/photos-2022/x", storage=STORAGE)
    assert near.startswith(f"there is nothing at {root}/photos-2022/x; the nearest place with ")
    assert f"is {root}, with photo" in near
    assert near.endswith(" and 2 more")
    assert describe_nearest_folder("/nowhere/at/all", storage=STORAGE).endswith("nor above it")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (
        describe_nearest_folder(f"{empty}", storage=STORAGE) == f"the folder {empty} holds no files"
    )


def test_a_wrong_prefix_in_a_bucket_is_told_with_describe_nearest_folder(s3_storage):
    s3_storage.write("s3://test/near/photos/a.jpg", b"1")
    near = describe_nearest_folder("s3://test/near/phots", storage=s3_storage)
    assert near.endswith("the nearest place with anything is s3://test/near, with photos")
