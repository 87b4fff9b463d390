"""A location is a name and no language: what was listed is opened under the name it had there."""

import os
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import Storage, below, is_complete, join
from pipeline.storage.uris import absolute, local_path, local_uri

NAMES = [
    "x::y.jpg",
    "a.jpg?versionId=1",
    "a%2Fb.jpg",
    "100%.jpg",
    "a#b.jpg",
    "a[1]*?{b}.jpg",
    " spaces .jpg",
    "user@host.jpg",
    "line\nbreak.jpg",
    "tab\tand'quote\".jpg",
    "back\\slash\\x41.jpg",
    "~.jpg",
    "s3:x.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "\U0001f600.jpg",
    "$HOME.jpg",
    "-rf.jpg",
]
BYTES = [b"byte\xff.jpg", b"\xe9t\xe9.jpg", b"both\\xff\xff.jpg"]


def as_text(value: str) -> None:
    """Passes a name through what Parquet, JSON and a terminal take."""
    pa.array([value], pa.string())
    value.encode()


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_a_file_is_listed_looked_at_and_read_under_its_name(place, number):
    (storage, root), name = place, NAMES[number]
    if "\\" in name and "://" in root:
        pytest.skip("this server makes slashes of backslashes")
    folder = join(root, "in::a?b", "~")
    uri = join(folder, name)
    storage.write(uri, name.encode())
    assert storage.absolute(uri) == uri
    (file,) = storage.files(root)
    assert file == storage.file(uri)
    assert file.uri == uri
    assert storage.read(uri, etag=file.etag) == name.encode()
    with storage.open(uri, etag=file.etag, size=file.size) as opened:
        assert opened.read() == name.encode()
    storage.delete([uri])
    assert list(storage.files(root)) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="its disks have no such names")
@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("folder", [b"d", b"\xfed"])
def test_a_name_that_is_no_text_is_written_as_text_and_opened_by_its_bytes(tmp_path, name, folder):
    storage, root = Storage(), os.fsencode(tmp_path) + b"/" + folder
    os.mkdir(root)
    Path(os.fsdecode(root), os.fsdecode(name)).write_bytes(b"pixels")
    place = storage.absolute(os.fsdecode(root))
    (file,) = storage.files(place)
    for text in (place, file.uri, below(file.uri, root=place)):
        as_text(text)
    assert os.fsencode(local_path(file.uri)) == root + b"/" + name
    assert storage.absolute(file.uri) == file.uri
    assert storage.absolute(join(place, os.fsdecode(name))) == file.uri
    assert storage.read(file.uri, etag=file.etag) == b"pixels"
    storage.write(join(place, "beside"), b"1")
    assert storage.read(f"{file.uri.rsplit('/', 1)[0]}/beside") == b"1"


@given(st.lists(st.binary(min_size=1, max_size=12), max_size=20, unique=True))
def test_two_names_on_a_disk_never_give_one_location_or_one_id(names):
    names = [name for name in names if not {0, ord("/")} & {*name} and name not in (b".", b"..")]
    paths = [os.fsdecode(b"/c/" + name) for name in names]
    uris = [absolute(path) for path in paths]
    ids = [below(uri, root="/c") for uri in uris]
    for text in (*uris, *ids):
        as_text(text)
    assert [local_path(uri) for uri in uris] == paths
    assert len(set(ids)) == len(names)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1))
def test_a_name_that_is_text_stays_as_it_is(name):
    uri = local_uri(f"/c/{name}")
    assert uri == f"/c/{name}"
    if "\\x" not in name:
        assert below(uri, root="/c") == name


@pytest.mark.parametrize("name", ["nul\0.jpg", "x" * 300 + ".jpg", "there.jpg/x.jpg", "\ud800.jpg"])
def test_a_name_that_no_disk_has_is_absent_and_no_fault(tmp_path, name):
    (tmp_path / "there.jpg").write_bytes(b"1")
    storage = Storage()
    uri = storage.absolute(join(str(tmp_path), name))
    assert storage.file(uri) is None
    with pytest.raises(FileNotFoundError):
        storage.read(uri)


@pytest.mark.parametrize("name", ["x" * 1100 + ".jpg", "byte\udcff.jpg", "\ud800.jpg"])
def test_a_key_that_s3_cannot_have_is_absent_and_no_fault(s3_storage, name):
    uri = s3_storage.absolute(f"s3://test/no/{name}")
    as_text(uri)
    assert s3_storage.file(uri) is None


class AtAccount(MemoryFileSystem):
    """Takes an account out of its locations, as Azure's does."""

    protocol = "abfs"
    store: dict = {}  # noqa: RUF012  as the parent has it
    accounts: list = []  # noqa: RUF012

    @staticmethod
    def _get_kwargs_from_urls(path):
        host = path.split("://", 1)[1].split("/", 1)[0]
        return {"account": host.partition("@")[2]} if "@" in host else {}

    @classmethod
    def _strip_protocol(cls, path):
        container, slash, rest = path.removeprefix("abfs://").lstrip("/").partition("/")
        return f"/{container.partition('@')[0]}{slash}{rest}"

    def __init__(self, account="", **options):
        super().__init__(**options)
        self.accounts.append(account)


def test_a_container_at_an_account_carries_no_credentials(monkeypatch):
    fsspec.register_implementation("abfs", AtAccount, clobber=True)
    storage, root = Storage(), "abfs://container@account.dfs.core.windows.net/x"
    assert storage.absolute(root) == root
    storage.write(f"{root}/y::z.jpg", b"1")
    assert AtAccount.accounts == ["account.dfs.core.windows.net"]
    assert [file.uri for file in storage.files(root)] == [f"{root}/y::z.jpg"]
    assert storage.read(f"{root}/y::z.jpg") == b"1"


@pytest.mark.parametrize(
    "uri",
    [
        "abfs://name:key@account/x",
        "s3://key@bucket/a",
        "https://token@host?x=1",
        "HTTPS://user:pass@host",
    ],
)
def test_credentials_are_refused_wherever_they_could_be(uri):
    with pytest.raises(ValueError, match="must not carry credentials"):
        absolute(uri)


@pytest.mark.parametrize(
    "uri", ["s3://bucket/user:x@host/a.jpg", "https://host/a?to=me@host", "https://host?to=me@x"]
)
def test_an_at_in_a_name_carries_none(uri):
    assert absolute(uri) == uri


def test_a_location_is_complete_or_lies_beside_its_manifest():
    for uri in ("/a", "s3://b/a", "HTTP://h/a", "abfs://c@a/x"):
        assert is_complete(uri)
    for uri in ("a", "./a", "a?u=http://x", "x::s3://b", "1:/a", "://a"):
        assert not is_complete(uri)
