"""Storage on an S3 server that fails: nothing is lost, mixed up or shown, and all is counted."""

import random
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from s3 import KEY, SECRET, S3Server, storage_at
from s3_proxy import KINDS, Request, S3Proxy, s3_proxy

import pipeline.storage.retries
from pipeline.storage import SourceChanged, Storage, StorageFault, join, s3_objects
from pipeline.storage.retries import take_retries

_THREADS = 8

# Others may be met by aiohttp alone: where a connection that it had used before is no more, it
# opens another and sends once more, which nobody sees.
_ANSWERED = ("slow down", "internal error")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[S3Proxy]:
    """Starts a proxy that does nothing yet."""
    with s3_proxy(server) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.02)
    take_retries()


def operate(storage: Storage, root: str, *, number: int, seed: int) -> Counter[str]:
    """Runs operations of all sorts and checks each result; returns how many there were of each."""
    done: Counter[str] = Counter()

    def work(thread: int) -> None:
        drawn = random.Random(f"{seed}-{thread}")
        folder = join(root, f"{thread}")
        there: dict[str, bytes] = {}
        for turn in range(number // _THREADS):
            kind = drawn.choice(["write", "read", "read", "range", "open", "look", "list", "new"])
            done[kind] += 1
            uri = join(folder, f"{turn:04}.bin")
            if kind == "new":
                data = b"%d" % turn
                assert storage.write_new(uri, data)
                assert not storage.write_new(uri, b"another")
                there[uri] = data
            elif kind == "write" or not there:
                uri = drawn.choice([uri, *there])
                there[uri] = drawn.randbytes(drawn.choice([0, 1, 1000, 100_000, 300_000]))
                storage.write(uri, there[uri])
            elif kind == "list":
                assert sorted(file.uri for file in storage.files(folder)) == sorted(there)
            else:
                uri = drawn.choice(list(there))
                look(storage, uri, there[uri], kind=kind, drawn=drawn)
            if len(there) > 20:
                gone = drawn.choice(list(there))
                storage.delete([gone])
                del there[gone]
        for uri, data in there.items():
            assert storage.read(uri) == data

    with ThreadPoolExecutor(_THREADS) as pool:
        for future in [pool.submit(work, thread) for thread in range(_THREADS)]:
            future.result()
    return done


def look(storage: Storage, uri: str, data: bytes, *, kind: str, drawn: random.Random) -> None:
    if kind == "read":
        assert storage.read(uri) == data
        return
    file = storage.file(uri)
    assert file is not None
    assert file.size == len(data)
    if kind == "range" and data:
        start, stop = sorted(drawn.randrange(len(data)) for _ in range(2))
        assert storage.read(uri, etag=file.etag, start=start, stop=stop) == data[start:stop]
        assert storage.read(uri, start=start) == data[start:]
    elif kind == "open":
        with storage.open(uri, etag=file.etag, size=file.size) as opened:
            assert opened.read() == data


def test_some_faults_of_each_kind_change_no_result(server, proxy):
    """The short part of what follows."""
    proxy.rate, proxy.seed, proxy.kinds = 0.1, 3, KINDS[:-1]  # a stall takes half a second
    operate(storage_at(proxy.endpoint_url), "s3://test/short", number=240, seed=0)
    assert proxy.faults.keys() == set(KINDS[:-1])
    told = {each.kind: each.count for each in take_retries()}
    assert told["throttled"] == proxy.faults["slow down"]
    assert proxy.faults["internal error"] <= told["transient"]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_storage_keeps_its_word_at_1_5_and_20_percent_of_faults(server, monkeypatch):
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.2)  # as it is
    alone = seconds_alone = 0.0
    for rate in (0.0, 0.01, 0.05, 0.2):
        with s3_proxy(server, rate=rate, seed=1) as proxy:
            take_retries()
            began = time.monotonic()
            operate(
                storage_at(proxy.endpoint_url, read_timeout_seconds=2),
                f"s3://test/rate-{rate}",
                number=2000,
                seed=0,
            )
            seconds, requests = time.monotonic() - began, proxy.requests.total()
            told = {each.kind: each for each in take_retries()}
        if not rate:
            alone, seconds_alone = requests, seconds
            assert not proxy.faults
        else:
            assert proxy.faults.keys() == set(KINDS)
            assert told["throttled"].count == pytest.approx(proxy.faults["slow down"], rel=0.1)
        waited = sum(each.seconds for each in told.values())
        print(
            f"figure: S3 faults at {rate:.0%}: 2,000 operations all right, "
            f"{proxy.faults.total():,} faults in {requests:,} requests "
            f"({requests / alone - 1:+.1%}), {seconds:.0f} s of {_THREADS} threads "
            f"({seconds - seconds_alone:+.0f} s; {waited:.0f} s of waiting)"
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [100_000, 0])
def test_a_request_that_meets_one_fault_is_done_at_the_second_attempt(proxy, kind, size):
    storage = storage_at(proxy.endpoint_url, read_timeout_seconds=0.5 if kind == "stall" else 10)
    uri, data = f"s3://test/once/{kind}-{size}", bytes(size)
    for action in (
        lambda: storage.write(uri, data),
        lambda: storage.read(uri),
        lambda: storage.file(uri),
        lambda: list(storage.files("s3://test/once")),
        lambda: storage.delete([uri]),
    ):
        first = proxy.requests.total()
        proxy.kinds, proxy.rate = (kind,), 1.0
        proxy.before = lambda _: None
        passing = _faults_end_after(proxy, first)
        result = action()
        passing()
        if isinstance(result, bytes):
            assert result == data
    told = Counter({each.kind: each.count for each in take_retries()})
    assert proxy.faults == {kind: 5}
    assert told["throttled"] == (5 if kind == "slow down" else 0)
    if kind in _ANSWERED:
        assert told.total() == 5
    elif kind == "stall":
        assert told.total() >= 5  # a busy machine stalls too
    else:
        assert told.total() <= 5


def _faults_end_after(proxy: S3Proxy, first: int) -> Any:
    """Lets only the request of that number meet its fault; gives what undoes that."""
    fault = type(proxy).fault

    def only_first(request: Request) -> str | None:
        return fault(proxy, request) if request.number == first else None

    proxy.fault = only_first  # type: ignore[method-assign]
    return lambda: proxy.__dict__.pop("fault")


def test_a_large_object_has_its_parts_tried_again_by_the_client(proxy, monkeypatch):
    """Repeats the part that failed alone, not the whole object."""
    monkeypatch.setattr(s3_objects, "LARGEST_PUT_BYTES", 10)
    passing = _faults_end_after(proxy, 0)
    proxy.kinds, proxy.rate = ("internal error",), 1.0
    storage_at(proxy.endpoint_url).write("s3://test/large", bytes(1000))
    passing()
    proxy.rate = 0
    assert proxy.faults == {"internal error": 1}
    assert proxy.requests == {"PUT": 2}
    assert take_retries() == []
    assert storage_at(proxy.endpoint_url).read("s3://test/large") == bytes(1000)


def test_a_new_object_whose_answer_was_lost_is_known_as_ones_own(proxy):
    storage = storage_at(proxy.endpoint_url)
    assert storage.write_new("s3://test/lost/warm", b"first")
    passing = _faults_end_after(proxy, proxy.requests.total())
    proxy.kinds, proxy.rate = ("lost answer",), 1.0
    assert storage.write_new("s3://test/lost/new", b"mine")
    passing()
    proxy.rate = 0
    assert not storage.write_new("s3://test/lost/new", b"other")
    assert storage.read("s3://test/lost/new") == b"mine"


def test_faults_that_stay_end_in_bounded_time_with_a_fault(proxy):
    storage = storage_at(
        proxy.endpoint_url, storage_attempts=1000, storage_seconds=3, read_timeout_seconds=0.5
    )
    storage.write("s3://test/x", b"")  # the first request makes the client, for a second or two
    proxy.rate, proxy.kinds = 1.0, ("stall",)
    began = time.monotonic()
    with pytest.raises(StorageFault, match=r"read s3://test/x: \w+: .*attempts in \d+ s"):
        storage.read("s3://test/x")
    assert time.monotonic() - began < 20
    proxy.kinds = ("reset",)
    with pytest.raises(StorageFault, match=r"3 attempts"):
        storage_at(proxy.endpoint_url, storage_attempts=3).write("s3://test/x", b"")


def test_a_server_that_takes_the_connection_and_never_listens_is_a_fault(monkeypatch):
    """The client waits for answers within bounds, but would send for ever."""
    import socket

    monkeypatch.setattr(s3_objects, "_SLOWEST_BYTES_PER_SECOND", 2**30)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        storage = Storage(
            endpoint_url=url, region="us-east-1", key="k", secret="s", storage_attempts=2,
            connect_timeout_seconds=0.2, read_timeout_seconds=0.3,
        )  # fmt: skip
        began = time.monotonic()
        with pytest.raises(StorageFault, match="2 attempts"):
            storage.write("s3://test/x", bytes(20 * 2**20))
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("strips_conditions", [False, True])
@pytest.mark.parametrize("swap_at", [1, 2, 4])
def test_an_object_replaced_between_two_ranges_is_never_read_as_a_mixture(
    server, proxy, swap_at, strips_conditions
):
    """Relies on the server (If-Match), and where that is ignored on the etag of each answer."""
    uri = f"s3://test/swapped/{swap_at}-{strips_conditions}"
    direct, storage = storage_at(server.endpoint_url), storage_at(proxy.endpoint_url)
    direct.write(uri, bytes(3 * 2**20))
    planned = direct.file(uri)
    assert planned is not None
    gets = 0

    def swap(request: Request) -> None:
        nonlocal gets
        gets += request.method == "GET"
        if request.method == "GET" and gets == swap_at:
            direct.write(uri, b"\1" * 3 * 2**20)

    proxy.before, proxy.strips_conditions = swap, strips_conditions
    read: list[bytes] = []

    def read_all() -> None:
        with storage.open(uri, etag=planned.etag, size=planned.size) as file:
            read.extend(iter(lambda: file.read(50_000), b""))

    with pytest.raises(SourceChanged, match="swapped"):
        read_all()
    assert not any(map(any, read)), "the bytes of the new one beside those of the old one"
    assert gets >= swap_at


def test_a_whole_object_is_replaced_while_its_answer_is_lost(server, proxy):
    """The first attempt meets the old object, the second the new one."""
    uri = "s3://test/swapped/whole"
    direct, storage = storage_at(server.endpoint_url), storage_at(proxy.endpoint_url)
    direct.write(uri, bytes(100_000))
    planned = direct.file(uri)
    assert planned is not None
    passing = _faults_end_after(proxy, proxy.requests.total())
    proxy.rate, proxy.kinds = 1.0, ("truncated",)
    proxy.before = lambda request: (
        direct.write(uri, b"\1" * 100_000) if request.number == 1 else None
    )
    with pytest.raises(SourceChanged):
        storage.read(uri, etag=planned.etag)
    passing()
    assert proxy.faults["truncated"] == 1


def test_credentials_that_expire_are_asked_for_again_where_there_may_be_new_ones(
    server, proxy, tmp_path, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def credentials(key: str, secret: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")

    proxy.rejects = lambda request: "old-key" in request.headers["authorization"]
    credentials("old-key", "old-secret")
    storage = replace(storage_at(proxy.endpoint_url), key=None, secret=None)
    with pytest.raises(StorageFault, match=r"ExpiredToken.*set new credentials") as caught:
        storage.read("s3://test/x")
    assert "old-key" not in str(caught.value)
    monkeypatch.setattr(s3_objects, "_RENEWED_LATELY_SECONDS", 0.0)
    credentials(KEY, SECRET)
    take_retries()
    # A HEAD that is refused has no body with a reason; it has to be found out.
    assert storage.file("s3://test/expired/none") is None
    storage.write("s3://test/expired/a", b"1")
    assert storage.read("s3://test/expired/a") == b"1"
    [told] = take_retries()
    assert (told.kind, told.count) == ("expired", 1)


def test_many_threads_whose_credentials_expire_renew_them_once(proxy, monkeypatch):
    renewed = []
    fs, _ = Storage(endpoint_url=proxy.endpoint_url)._filesystem("s3://test/x")
    set_session = type(fs).set_session

    async def counted(self: Any, refresh: bool = False, **options: Any) -> Any:
        renewed.append(refresh)
        return await set_session(self, refresh=refresh, **options)

    monkeypatch.setattr(type(fs), "set_session", counted)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: s3_objects.S3Objects(fs).renew(), range(8)))
    assert sum(renewed) == 1


def test_no_fault_shows_a_credential_even_where_the_server_repeats_it(proxy, monkeypatch):
    refusals = {
        "expired": (400, "ExpiredToken", f"token of {KEY} with {SECRET} is over"),
        "slow down": (503, "SlowDown", f"{KEY}, please slow down; X-Amz-Signature={SECRET}"),
        "internal error": (500, "InternalError", f"aws_secret_access_key={SECRET}"),
    }
    monkeypatch.setattr("s3_proxy._ANSWERS", refusals)
    storage = storage_at(proxy.endpoint_url, storage_attempts=2, read_timeout_seconds=0.2)
    proxy.rate = 1.0
    shown = []
    for kind in (*KINDS, "expired"):
        proxy.kinds = (kind,)  # type: ignore[assignment]
        proxy.rejects = lambda _, kind=kind: kind == "expired"  # type: ignore[misc]
        for action in (
            lambda: storage.read("s3://test/x"),
            lambda: storage.write("s3://test/x", b""),
            lambda: storage.write_new("s3://test/x", b""),
            lambda: list(storage.files("s3://test/x")),
        ):
            with pytest.raises(StorageFault) as caught:
                action()
            shown += [str(caught.value), repr(caught.value)]
    for text in shown:
        assert KEY not in text
        assert SECRET not in text
    # The traceback's causes come from the server, which never got the secret.
    assert "Traceback" in "".join(traceback.format_exception(caught.value))


def test_a_listing_of_many_pages_asks_again_for_the_page_that_failed_alone(server, proxy):
    direct = storage_at(server.endpoint_url)
    names = [f"s3://test/pages/{name}" for name in ("a-1", "a.txt", "a/b", "a0", "b")]
    for name in names:
        direct.write(name, b"1")
    storage = storage_at(proxy.endpoint_url)
    original = s3_objects.Pages

    class SmallPages(original):  # type: ignore[misc,valid-type]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._request["MaxKeys"] = 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_objects, "Pages", SmallPages)
        passing = _faults_end_after(proxy, 1)
        proxy.rate, proxy.kinds = 1.0, ("truncated",)
        # Not every server lists in the order of names; each lists everything once.
        assert sorted(file.uri for file in storage.files("s3://test/pages")) == names
        passing()
    assert proxy.faults["truncated"] == 1
    assert proxy.requests["GET"] == 4
