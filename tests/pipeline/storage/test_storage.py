"""Storage reads and writes whole or not at all, tells faults from facts, and keeps secrets."""

import os
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3 import KEY, SECRET

import pipeline.storage
from pipeline.runtime.settings import Settings
from pipeline.storage import SourceChanged, Storage, StorageFault, join, s3_objects


class FlakyFileSystem(MemoryFileSystem):
    """Keeps files in memory, and fails as often as `failures` says before each success."""

    protocol = "flaky"
    store: dict = {}  # noqa: RUF012  as the parent has it: one store for all instances
    failures = 0
    error: Exception = OSError("connection reset")
    calls = 0

    @classmethod
    def fail(cls, times: int, *, error: Exception | None = None) -> None:
        cls.failures, cls.error, cls.calls = times, error or OSError("connection reset"), 0

    def _may_fail(self) -> None:
        type(self).calls += 1
        if self.failures:
            type(self).failures -= 1
            raise self.error

    def cat_file(self, *args, **kwargs):
        self._may_fail()
        return super().cat_file(*args, **kwargs)

    def pipe_file(self, *args, **kwargs):
        self._may_fail()
        return super().pipe_file(*args, **kwargs)

    def find(self, *args, **kwargs):
        self._may_fail()
        return super().find(*args, **kwargs)

    def rm_file(self, path):
        self._may_fail()
        return super().rm_file(path)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)


@pytest.fixture
def flaky() -> Storage:
    FlakyFileSystem.fail(0)
    FlakyFileSystem.store.clear()
    return Storage()


def test_what_was_written_is_listed_and_read_back(place):
    storage, root = place
    written = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)), "deep/c": b""}
    for name, data in written.items():
        storage.write(join(root, name), data)
    files = {file.uri: file for file in storage.files(root)}
    assert list(files) == [join(root, name) for name in sorted(written)]
    for name, data in written.items():
        file = files[join(root, name)]
        assert file.size == len(data)
        assert file.modified > 10**9
        assert storage.file(file.uri) == file
        assert storage.read(file.uri, etag=file.etag) == data
        with storage.open(file.uri, etag=file.etag, size=file.size) as opened:
            assert opened.read() == data


def test_any_range_is_that_part_of_the_whole(place):
    storage, root = place
    data = random.Random(0).randbytes(1000)
    uri = join(root, "data")
    storage.write(uri, data)
    for start, stop in [(0, 1), (0, 1000), (7, 7), (0, 0), (999, 1000), (10, 500)]:
        assert storage.read(uri, start=start, stop=stop) == data[start:stop]
    assert storage.read(uri, start=990) == data[990:]
    assert storage.read(uri, stop=10) == data[:10]


def test_a_range_that_the_object_does_not_have_is_a_fault_and_no_short_read(place):
    storage, root = place
    storage.write(join(root, "data"), b"0123456789")
    with pytest.raises(StorageFault, match=r"5 bytes of 10|InvalidRange"):
        storage.read(join(root, "data"), start=5, stop=15)


def test_nothing_lies_where_nothing_was_written(place):
    storage, root = place
    assert list(storage.files(join(root, "no"))) == []
    assert storage.file(join(root, "no")) is None
    with pytest.raises(FileNotFoundError):
        storage.read(join(root, "no"))


def test_a_folder_is_no_file(place):
    storage, root = place
    storage.write(join(root, "sub", "a"), b"1")
    assert storage.file(join(root, "sub")) is None


def test_a_listing_of_one_file_gives_that_file(place):
    storage, root = place
    storage.write(join(root, "a.jpg"), b"1")
    assert [file.uri for file in storage.files(join(root, "a.jpg"))] == [join(root, "a.jpg")]


def test_an_object_that_was_replaced_is_not_the_one_that_was_planned(place):
    storage, root = place
    uri = join(root, "data")
    storage.write(uri, b"first, and longer")
    planned = storage.file(uri)
    storage.write(uri, b"second")
    changed = storage.file(uri)
    assert planned is not None
    assert changed is not None
    assert planned.etag != changed.etag
    for options in ({}, {"start": 2, "stop": 4}):
        with pytest.raises(SourceChanged, match="data"):
            storage.read(uri, etag=planned.etag, **options)
    with pytest.raises(SourceChanged):  # noqa: SIM117
        with storage.open(uri, etag=planned.etag, size=planned.size) as file:
            file.read()
    assert storage.read(uri, etag=changed.etag) == b"second"


def test_an_object_that_is_gone_is_not_the_one_that_was_planned(place):
    storage, root = place
    uri = join(root, "data")
    storage.write(uri, b"first")
    planned = storage.file(uri)
    assert planned is not None
    storage.delete([uri])
    with pytest.raises(SourceChanged, match="gone"):
        storage.read(uri, etag=planned.etag)
    with pytest.raises(SourceChanged):  # noqa: SIM117
        with storage.open(uri, etag=planned.etag, size=planned.size) as file:
            file.read()


def test_an_object_replaced_while_it_is_read_is_found_out(place, monkeypatch):
    storage, root = place
    uri = join(root, "data")
    first, second = bytes(2**20), b"\1" * 2**19
    storage.write(uri, first)
    planned = storage.file(uri)
    assert planned is not None
    if "://" not in uri:  # an open file goes on with what it opened, whatever is renamed over it
        with storage.open(uri, etag=planned.etag, size=planned.size) as file:
            head = file.read(10)
            storage.write(uri, second)
            assert head + file.read() == first
        return
    file = storage.open(uri, etag=planned.etag, size=planned.size)
    assert file.read(10) == bytes(10)
    storage.write(uri, second)
    with pytest.raises(SourceChanged):
        file.read()


def test_a_file_rewritten_in_place_while_it_is_read_is_found_out(tmp_path, monkeypatch):
    storage, path = Storage(), tmp_path / "data"
    path.write_bytes(bytes(1000))
    planned = storage.file(str(path))
    assert planned is not None
    check, calls = pipeline.storage.local_files._check, []

    def check_then_rewrite(*arguments) -> None:
        check(*arguments)
        calls.append(arguments)
        if len(calls) == 1:
            path.write_bytes(b"\1" * 1000)

    monkeypatch.setattr(pipeline.storage.local_files, "_check", check_then_rewrite)
    with pytest.raises(SourceChanged):
        storage.read(str(path), etag=planned.etag)


def test_deleting_twice_does_no_harm(place):
    storage, root = place
    storage.write(join(root, "sub", "a"), b"1")
    storage.write(join(root, "b"), b"1")
    storage.delete([join(root, "sub", "a")] * 2)
    assert [file.uri for file in storage.files(root)] == [join(root, "b")]


def test_a_local_delete_takes_the_folder_that_it_leaves_empty(tmp_path):
    storage = Storage()
    storage.write(str(tmp_path / "_staging" / "unit" / "part"), b"1")
    storage.write(str(tmp_path / "other"), b"1")
    storage.delete([str(tmp_path / "_staging" / "unit" / "part")])
    assert os.listdir(tmp_path) == ["other"]


def test_of_many_who_write_a_new_object_one_wins_and_its_content_stays(place):
    storage, root = place
    uri = join(root, "_table.json")
    won: list[bytes] = []

    def write(data: bytes) -> None:
        if storage.write_new(uri, data):
            won.append(data)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [bytes([n]) * 1000 for n in range(8)]))
    assert len(won) == 1
    assert storage.read(uri) == won[0]
    assert not storage.write_new(uri, b"late")
    assert [file.uri for file in storage.files(root)] == [uri]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_object_needs_no_more_than_its_own_folder(tmp_path, monkeypatch, has_links):
    """Mounted buckets have no hard links, and what lies above a mount may be another disk."""
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refuse)
    storage, uri = Storage(), str(tmp_path / "table" / "_table.json")
    assert storage.write_new(uri, b"mine")
    assert not storage.write_new(uri, b"other")
    assert storage.read(uri) == b"mine"
    assert os.listdir(tmp_path) == ["table"]
    assert os.listdir(tmp_path / "table") == ["_table.json"]


def test_a_local_write_that_fails_leaves_what_was_there_and_no_more(tmp_path, monkeypatch):
    storage, uri = Storage(), str(tmp_path / "data")
    storage.write(uri, b"before")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageFault, match=r"No space left.*") as caught:
        storage.write(uri, b"after")
    assert "data" in str(caught.value)
    assert storage.read(uri) == b"before"
    assert os.listdir(tmp_path) == ["data"]


def test_a_reader_sees_one_writing_or_another_and_never_a_mixture(tmp_path):
    storage, uri = Storage(), str(tmp_path / "data")
    versions = [bytes([value]) * 200_000 for value in range(8)]
    storage.write(uri, versions[0])
    threads = [threading.Thread(target=storage.write, args=(uri, data)) for data in versions]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(storage.read(uri))
    assert seen <= set(versions)
    assert storage.read(uri) in versions


def test_a_write_survives_others_who_clear_its_folder_away(tmp_path, monkeypatch):
    """Two runs stage parts of one unit: one commits and clears while the other still writes."""
    storage, folder = Storage(), str(tmp_path / "_staging" / "unit")
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            storage.delete([file.uri for file in storage.files(folder)])

    monkeypatch.setattr(os, "fsync", fsync)
    storage.write(join(folder, "part.parquet"), b"rows")
    assert calls == 2
    assert storage.read(join(folder, "part.parquet")) == b"rows"


def test_a_listing_leaves_out_what_others_remove_meanwhile(tmp_path, monkeypatch):
    storage = Storage()
    for name in "abc":
        storage.write(str(tmp_path / name), b"1")
    scandir = os.scandir

    def list_then_lose_one(path):
        found = scandir(path)
        (tmp_path / "b").unlink()
        return found

    monkeypatch.setattr(os, "scandir", list_then_lose_one)
    files = storage.files(str(tmp_path))
    assert [file.uri for file in files] == [str(tmp_path / "a"), str(tmp_path / "c")]


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_faults_that_pass_are_not_seen(flaky, failures):
    for action in (
        lambda: flaky.write("flaky://x/a", b"123"),
        lambda: flaky.read("flaky://x/a"),
        lambda: list(flaky.files("flaky://x")),
        lambda: flaky.delete(["flaky://x/a"]),
    ):
        FlakyFileSystem.fail(failures)
        action()
        assert FlakyFileSystem.calls == failures + 1


def test_a_fault_that_stays_is_a_storage_fault_after_some_attempts(flaky):
    flaky.write("flaky://x/a", b"123")
    for action in (
        lambda: flaky.write("flaky://x/a", b"123"),
        lambda: flaky.read("flaky://x/a"),
        lambda: list(flaky.files("flaky://x")),
        lambda: flaky.delete(["flaky://x/a"]),
    ):
        FlakyFileSystem.fail(1000)
        with pytest.raises(StorageFault, match=r"flaky://x.*: OSError: connection reset"):
            action()
        assert 2 <= FlakyFileSystem.calls <= 10


def test_what_retries_cannot_change_is_not_tried_again(flaky):
    flaky.write("flaky://x/a", b"123")
    FlakyFileSystem.fail(1000, error=PermissionError("Access Denied"))
    with pytest.raises(StorageFault, match="Access Denied"):
        flaky.read("flaky://x/a")
    assert FlakyFileSystem.calls == 1
    FlakyFileSystem.fail(1000, error=FileNotFoundError("a"))
    with pytest.raises(FileNotFoundError):
        flaky.read("flaky://x/a")
    assert FlakyFileSystem.calls == 1


def test_a_server_that_does_not_answer_is_a_fault():
    storage = Storage(endpoint_url="http://127.0.0.1:9", key="k", secret="s", region="us-east-1")
    with pytest.raises(StorageFault):
        storage.read("s3://test/a", etag="x")


def test_wrong_credentials_are_a_fault_whose_message_does_not_show_them(s3):
    wrong = Storage(
        endpoint_url=s3.endpoint_url, region="us-east-1", key=KEY, secret="wrong-secret-1"
    )
    with pytest.raises(StorageFault) as caught:
        wrong.read("s3://test/a")
    assert "wrong-secret-1" not in str(caught.value)


def test_no_secret_shows_where_storage_is_printed_or_saved(s3_storage):
    storage = Storage(key=KEY, secret=SECRET, token="token-4711", endpoint_url="http://host")
    for text in (repr(storage), str(storage), Settings(parts=(storage,)).to_yaml()):
        assert "http://host" in text
        for hidden in (KEY, SECRET, "token-4711"):
            assert hidden not in text
    assert pickle.loads(pickle.dumps(storage)) == storage  # it must reach the workers, though


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/a", "https://user:pass@host/x.tar"])
def test_a_location_with_credentials_is_refused_without_repeating_them(uri):
    with pytest.raises(ValueError, match="must not carry credentials") as caught:
        Storage().absolute(uri)
    for word in ("secret@", "key:", "user", "pass@"):
        assert word not in str(caught.value)


def test_the_environment_fills_in_what_settings_leave_open(monkeypatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    assert Storage().with_environment() == Storage()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "env-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    filled = Storage().with_environment()
    assert filled == Storage(
        endpoint_url="http://general",
        region="eu-north-1",
        key="env-key",
        secret="env-secret",
        token="env-token",
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3")
    assert Storage().with_environment().endpoint_url == "http://s3"
    assert Storage(endpoint_url="http://mine").with_environment().endpoint_url == "http://mine"
    own = Storage(key="mine", secret="own").with_environment()
    assert (own.key, own.secret, own.token) == ("mine", "own", None)
    anonymous = Storage(anonymous=True).with_environment()
    assert (anonymous.key, anonymous.secret, anonymous.token) == (None, None, None)


def test_local_places_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    storage = Storage()
    assert storage.absolute("a/../b") == str(tmp_path / "b")
    assert storage.absolute("~/b") == "/home/someone/b"
    assert storage.absolute("file:///data/b/") == "/data/b"
    assert storage.absolute("s3://bucket/prefix/") == "s3://bucket/prefix"


def test_a_listing_shows_at_once_what_another_client_wrote(s3, s3_storage):
    root = "s3://test/fresh"
    assert list(s3_storage.files(root)) == []
    other = Storage(endpoint_url=s3.endpoint_url, region="us-west-2", key=KEY, secret=SECRET)
    other.write(f"{root}/new", b"1")
    assert [file.uri for file in s3_storage.files(root)] == [f"{root}/new"]
    other.delete([f"{root}/new"])
    assert list(s3_storage.files(root)) == []


def test_a_large_file_of_this_machine_is_written_whole_in_parts(
    place: tuple[Storage, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, root = place
    monkeypatch.setattr(s3_objects, "LARGEST_PUT_BYTES", 0)
    monkeypatch.setattr(s3_objects, "_PART_BYTES", 5 * 2**20)
    source = tmp_path / "source"
    for size in (10, 11 * 2**20):
        source.write_bytes(os.urandom(2**10) * -(-size // 2**10))
        storage.write_file(join(root, "a", "large"), str(source))
        assert storage.read(join(root, "a", "large")) == source.read_bytes()
    assert [file.uri for file in storage.files(root)] == [join(root, "a", "large")]
