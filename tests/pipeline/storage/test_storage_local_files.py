"""A disk that fails or refuses is a fault: never a folder without files, nor an absent file."""

import errno
import os
from pathlib import Path

import pytest
from corpora import put

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.storage import Storage, StorageFault, local_files
from pipeline.storage.retries import take_retries

STORAGE = Storage(storage_attempts=3)


@pytest.fixture
def corpus(tmp_path) -> str:
    return put(tmp_path / "c", {"a.jpg": b"1", "in/b.jpg": b"2", "z.jpg": b"3"})


def make_call_fail(monkeypatch, call: str, *, at: str, number: int, times: int) -> None:
    """Makes a call of the system fail so often, at a path."""
    real, left = getattr(os, call), [times]

    def fail(path, *arguments, **options):
        if left[0] and os.fspath(path) == at:
            left[0] -= 1
            raise OSError(number, os.strerror(number), at)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN])
def test_a_disk_that_fails_for_a_while_is_asked_again(corpus, monkeypatch, number):
    take_retries()
    make_call_fail(monkeypatch, "scandir", at=f"{corpus}/in", number=number, times=2)
    make_call_fail(monkeypatch, "stat", at=f"{corpus}/z.jpg", number=number, times=2)
    assert [file.uri.removeprefix(corpus) for file in STORAGE.files(corpus)] == [
        "/a.jpg", "/in/b.jpg", "/z.jpg",
    ]  # fmt: skip
    assert STORAGE.file(f"{corpus}/z.jpg") is not None
    assert {each.kind: each.count for each in take_retries()} == {"transient": 4}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("folder", ["", "/in"])
def test_a_folder_that_cannot_be_read_ends_a_listing_and_is_named(
    corpus, monkeypatch, number, folder
):
    make_call_fail(monkeypatch, "scandir", at=f"{corpus}{folder}", number=number, times=99)
    with pytest.raises(StorageFault, match=rf"list {corpus}{folder}: .*{os.strerror(number)}"):
        list(list_corpus(corpus, storage=STORAGE, settings=ReadSettings()).sources)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("name", ["lost+found", "System Volume Information", ".Trash-0"])
def test_a_folder_that_the_system_keeps_for_itself_costs_no_listing(
    corpus, monkeypatch, name, number
):
    os.mkdir(f"{corpus}/{name}")
    make_call_fail(monkeypatch, "scandir", at=f"{corpus}/{name}", number=number, times=99)
    listing = list_corpus(corpus, storage=STORAGE, settings=ReadSettings())
    assert [Path(source.uri).name for source in listing.sources] == ["a.jpg", "b.jpg", "z.jpg"]
    assert listing.out_of_reach == 0
    assert not listing.skipped


def test_a_folder_of_the_system_on_a_disk_that_fails_ends_a_listing(corpus, monkeypatch):
    os.mkdir(f"{corpus}/lost+found")
    make_call_fail(monkeypatch, "scandir", at=f"{corpus}/lost+found", number=errno.EIO, times=99)
    with pytest.raises(StorageFault, match="lost"):
        list(STORAGE.files(corpus))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM])
def test_a_file_that_cannot_be_looked_at_is_not_absent(corpus, monkeypatch, number):
    make_call_fail(monkeypatch, "stat", at=f"{corpus}/a.jpg", number=number, times=99)
    with pytest.raises(StorageFault, match=rf"a\.jpg.*{os.strerror(number)}"):
        STORAGE.file(f"{corpus}/a.jpg")


@pytest.fixture
def no_root(monkeypatch) -> None:
    """Files say by their mode alone who may read them."""

    def access(path, mode) -> bool:
        return bool(os.stat(path).st_mode & 0o400)

    def open_if_allowed(path, *arguments, **options):
        if not access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return open(path, *arguments, **options)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(local_files, "open", open_if_allowed, raising=False)


@pytest.mark.usefixtures("no_root")
def test_a_file_that_may_not_be_read_is_a_fault_that_says_what_to_do(corpus):
    os.chmod(f"{corpus}/a.jpg", 0)
    for read in (STORAGE.read, lambda uri: STORAGE.open(uri, etag="", size=1)):
        with pytest.raises(StorageFault, match="allow these credentials, or this user"):
            read(f"{corpus}/a.jpg")


@pytest.mark.usefixtures("no_root")
def test_a_file_that_may_not_be_read_waits_alone(corpus):
    os.chmod(f"{corpus}/in/b.jpg", 0)
    put(Path(corpus).parent, {"m.csv": b"uri\nc/a.jpg\nc/in/b.jpg\nc/z.jpg\n"})
    for place in (corpus, f"{corpus}/../m.csv"):
        listing = list_corpus(place, storage=STORAGE, settings=ReadSettings())
        assert [Path(source.uri).name for source in listing.sources] == ["a.jpg", "z.jpg"]
        assert listing.out_of_reach == 1
        assert f"{corpus}/in/b.jpg: this user may not read it" in listing.faults[0]


def test_what_lies_beside_files_is_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    put(tmp_path, {"a.jpg": b"1"})
    assert [file.uri for file in STORAGE.files(str(tmp_path))] == [str(tmp_path / "a.jpg")]
    assert STORAGE.file(str(tmp_path / "pipe.jpg")) is None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")
def test_where_no_folder_can_be_made_the_user_is_told_so():
    with pytest.raises(StorageFault, match=r"No folder can be made here.*allow"):
        Storage().write("/proc/none/file", b"data")
