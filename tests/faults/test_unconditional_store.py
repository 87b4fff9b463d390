"""A store that ignores If-None-Match still gives a new object to one writer only."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3 import KEY, SECRET, S3Server, rclone_server, storage_at
from s3_proxy import S3Proxy, s3_proxy

import pipeline.storage
from pipeline.storage import Storage, join

_WRITERS = 6


@pytest.fixture(scope="module")
def ignoring(server: S3Server) -> Iterator[S3Proxy]:
    with s3_proxy(server, strips_conditions=True) as proxy:
        yield proxy


def race_for_new_object(storage: Storage, uri: str) -> list[bytes]:
    """Lets some try at once to make an object; returns who was told to have made it."""
    won: list[bytes] = []
    together = threading.Barrier(_WRITERS)

    def write(data: bytes) -> None:
        together.wait()
        if storage.write_new(uri, data):
            won.append(data)

    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(write, [b"run-%d" % n for n in range(_WRITERS)]))
    return won


def lost_and_doubled(storage: Storage, root: str, *, rounds: int) -> tuple[int, int]:
    """Rounds that nobody won or whose winner was overwritten, and that several won."""
    lost = doubled = 0
    for number in range(rounds):
        uri = join(root, f"{number:08}")
        won = race_for_new_object(storage, uri)
        storage.write_new(uri, b"late")
        doubled += len(won) > 1
        lost += storage.read(uri) not in won
    return lost, doubled


def test_a_store_is_asked_once_whether_it_heeds_conditions(server, ignoring):
    pipeline.storage.storage._exclusive_stores.clear()
    assert storage_at(server.endpoint_url).write_new("s3://test/asked/a", b"1")
    assert storage_at(ignoring.endpoint_url).write_new("s3://test/asked/b", b"1")
    found = {url: heeds for (url, _), heeds in pipeline.storage.storage._exclusive_stores.items()}
    assert found == {server.endpoint_url: True, ignoring.endpoint_url: False}
    names = {file.uri for file in storage_at(server.endpoint_url).files("s3://test/asked")}
    assert not [name for name in names if "trial" in name]
    requests = ignoring.requests.total()
    storage_at(ignoring.endpoint_url).write_new("s3://test/asked/b", b"2")
    assert ignoring.requests.total() - requests == 2  # it is there: a look, a read


def test_one_of_many_makes_a_new_object_on_a_store_that_ignores_conditions(ignoring):
    storage = storage_at(ignoring.endpoint_url)
    assert lost_and_doubled(storage, "s3://test/few", rounds=4) == (0, 0)


def test_an_object_that_was_removed_can_be_made_anew_by_another(server, ignoring):
    """Does what happens to a lock every night."""
    storage, uri = storage_at(ignoring.endpoint_url), "s3://test/lock/lock.json"
    for night in (b"first", b"second", b"third"):
        assert storage.write_new(uri, night)
        assert not storage.write_new(uri, b"another")
        assert storage.read(uri) == night
        storage.delete([uri])
        assert list(storage_at(server.endpoint_url).files("s3://test/lock")) == []


def test_without_the_agreement_several_would(ignoring, monkeypatch):
    """Shows that the test above can fail."""
    storage = storage_at(ignoring.endpoint_url)
    monkeypatch.setattr(Storage, "_is_exclusive", lambda *_: True)
    assert lost_and_doubled(storage, "s3://test/none", rounds=12) != (0, 0)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_many_races_on_a_store_that_ignores_conditions_and_fails(server):
    with s3_proxy(server, strips_conditions=True, rate=0.05, seed=5) as proxy:
        storage = Storage(
            endpoint_url=proxy.endpoint_url, region="us-east-1", key=KEY, secret=SECRET,
            read_timeout_seconds=1.0,
        )  # fmt: skip
        began = time.monotonic()
        lost, doubled = lost_and_doubled(storage, "s3://test/many", rounds=60)
        seconds, requests = time.monotonic() - began, proxy.requests.total()
    print(
        f"figure: store that ignores conditional PUT, with 5% faults: 60 races of {_WRITERS} "
        f"writers, lost {lost}, doubled {doubled}; {requests / 60:.0f} requests and "
        f"{seconds / 60:.2f} s a race"
    )
    assert (lost, doubled) == (0, 0)


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_one_of_many_makes_a_new_object_on_rclone(tmp_path):
    with rclone_server(tmp_path) as server:
        lost, doubled = lost_and_doubled(
            storage_at(server.endpoint_url), "s3://test/rclone", rounds=20
        )
    assert not pipeline.storage.storage._exclusive_stores[server.endpoint_url, "test"]
    print(f"figure: rclone serve s3: 20 races, lost {lost}, doubled {doubled}")
    assert (lost, doubled) == (0, 0)
