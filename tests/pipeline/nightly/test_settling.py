"""Files that may still be written wait for another run."""

import os
import time
from pathlib import Path

from corpora import put

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.nightly.settling import Settling
from pipeline.storage import Storage


class Counting(Storage):
    """Notes what is looked at."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "looks", [])

    looks: list[str]

    def file(self, uri):
        self.looks.append(uri)
        return super().file(uri)


def settled_names(corpus: str, storage: Storage, **settings) -> tuple[list[str], int]:
    waits = Settling(corpus, storage=storage, **{"minutes": 0, "success_marker": None, **settings})
    listing = list_corpus(corpus, storage=storage, settings=ReadSettings(), waits=waits)
    return [source.name for source in listing.sources], listing.waiting


def make_minutes_older(path: Path, *, minutes: float) -> None:
    then = time.time() - 60 * minutes
    os.utime(path, (then, then))


def test_young_files_wait_and_are_counted(tmp_path):
    corpus = put(tmp_path / "c", {"a.jpg": b"1", "b.jpg": b"1", "s/c.tar": b"1", "d.txt": b""})
    make_minutes_older(tmp_path / "c" / "a.jpg", minutes=11)
    make_minutes_older(tmp_path / "c" / "b.jpg", minutes=9)
    make_minutes_older(tmp_path / "c" / "d.txt", minutes=11)
    assert settled_names(corpus, Storage(), minutes=10) == (["a.jpg"], 2)
    assert settled_names(corpus, Storage()) == (["a.jpg", "b.jpg", "s/c.tar"], 0)


def test_what_a_manifest_names_waits_too_and_so_does_a_young_manifest(tmp_path):
    corpus = put(tmp_path / "c", {"a.jpg": b"1", "b.jpg": b"1", "list.csv": b"uri\na.jpg\nb.jpg\n"})
    make_minutes_older(tmp_path / "c" / "a.jpg", minutes=11)
    manifest = f"{corpus}/list.csv"
    assert settled_names(manifest, Storage(), minutes=10) == ([], 1)
    make_minutes_older(Path(manifest), minutes=11)
    assert settled_names(manifest, Storage(), minutes=10) == (["a.jpg"], 1)


def test_a_folder_without_its_marker_waits_and_is_looked_at_once(tmp_path):
    corpus = put(
        tmp_path / "c",
        {
            "mon/_SUCCESS": b"",
            "mon/a.jpg": b"1",
            "mon/b.jpg": b"1",
            "tue/c.jpg": b"1",
            "d.jpg": b"1",
        },
    )
    storage = Counting()
    assert settled_names(corpus, storage, success_marker="_SUCCESS") == (
        ["mon/a.jpg", "mon/b.jpg"],
        2,
    )
    assert storage.looks.count(f"{corpus}/mon/_SUCCESS") == 1
    put(tmp_path / "c", {"tue/_SUCCESS": b""})
    assert settled_names(corpus, Storage(), success_marker="_SUCCESS")[0] == [
        "mon/a.jpg", "mon/b.jpg", "tue/c.jpg",
    ]  # fmt: skip


def test_the_clock_is_that_of_the_store(tmp_path, monkeypatch):
    """A driver whose clock is an hour behind still sees what is young, and what is not."""
    corpus = put(tmp_path / "c", {"a.jpg": b"1"})
    store_now = time.time() + 3600
    monkeypatch.setattr(Storage, "now", lambda self, uri: store_now)
    assert settled_names(corpus, Storage(), minutes=10) == (["a.jpg"], 0)
    os.utime(tmp_path / "c" / "a.jpg", (store_now - 60, store_now - 60))
    assert settled_names(corpus, Storage(), minutes=10) == ([], 1)


def test_s3_tells_its_own_time(s3_storage):
    s3_storage.write("s3://test/settling/a.jpg", b"1")
    (file,) = s3_storage.files("s3://test/settling")
    assert abs(s3_storage.now("s3://test/settling") - file.modified) < 5
    assert settled_names("s3://test/settling", s3_storage, minutes=10) == ([], 1)
