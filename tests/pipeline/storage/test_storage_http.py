"""Over HTTP only 404 and 410 say that nothing is there; all else is a fault, and tried again."""

from collections.abc import Iterator

import pytest
from ports import free_ports
from web import Site, site

from pipeline.storage import SourceChanged, Storage, StorageFault, http_objects
from pipeline.storage.retries import take_retries

DATA = bytes(range(256)) * 1000
STORAGE = Storage(storage_attempts=3, connect_timeout_seconds=2, read_timeout_seconds=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with site({"a.jpg": DATA, "empty.jpg": b""}) as here:
        yield here


@pytest.fixture(autouse=True)
def good_mood(server: Site) -> None:
    server.moods.clear()
    server.asked.clear()
    server.ranges.clear()


@pytest.mark.parametrize("status", ["404", "410"])
def test_an_object_that_a_server_does_not_have_is_absent(server, status):
    server.moods["/a.jpg"] = status
    assert STORAGE.file(f"{server.url}/a.jpg") is None
    with pytest.raises(FileNotFoundError):
        STORAGE.read(f"{server.url}/a.jpg")
    with pytest.raises(SourceChanged):
        STORAGE.read(f"{server.url}/a.jpg", etag=str(len(DATA)))


@pytest.mark.parametrize("mood", ["400", "401", "403", "429", "500", "502", "503", "504", "close"])
def test_any_other_answer_is_a_fault_and_no_absence(server, mood):
    server.moods["/a.jpg"] = mood
    url = f"{server.url}/a.jpg"
    for request in (STORAGE.file, STORAGE.read, lambda url: STORAGE.read(url, etag="e")):
        server.asked.clear()
        with pytest.raises(StorageFault, match=r"a\.jpg"):
            request(url)
        # Refused is refused; what may pass is asked for again.
        is_tried_again = max(server.asked.values()) >= 3
        assert is_tried_again == (mood not in ("400", "401", "403"))


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_not_reached_is_a_fault(host):
    (port,) = free_ports(1)
    for request in (STORAGE.file, STORAGE.read):
        with pytest.raises(StorageFault, match="3 attempts"):
            request(f"http://{host}:{port}/a.jpg")


@pytest.mark.parametrize(
    "host", ["", "[::1", "h:99999", "h:port", "a" * 70, "a..b", "256.1.1.1", "\u200b"]
)
def test_an_address_that_no_server_can_have_is_absent(host):
    assert STORAGE.file(f"http://{host}/a.jpg") is None
    with pytest.raises(FileNotFoundError, match="no server can have this address"):
        STORAGE.read(f"http://{host}/a.jpg")


def test_a_fault_that_passes_is_not_seen_but_counted(server):
    take_retries()
    server.moods["/a.jpg"] = "503*2"
    file = STORAGE.file(f"{server.url}/a.jpg")
    assert file is not None
    assert STORAGE.read(file.uri, etag=file.etag) == DATA
    assert {each.kind: each.count for each in take_retries()} == {"throttled": 4}


@pytest.mark.parametrize("mood", ["", "no head", "no ranges", "chunked"])
def test_whatever_a_server_knows_of_http_its_objects_are_read(server, mood):
    server.moods["/a.jpg"] = mood
    file = STORAGE.file(f"{server.url}/a.jpg")
    assert file is not None
    assert file.size == (0 if mood == "chunked" else len(DATA))  # it does not say
    assert STORAGE.read(file.uri, etag=file.etag) == DATA
    assert STORAGE.read(file.uri, etag=file.etag, start=1000, stop=70_000) == DATA[1000:70_000]
    with STORAGE.open(file.uri, etag=file.etag, size=len(DATA)) as opened:
        assert opened.read(200_000) + opened.read() == DATA


def test_of_an_object_whose_size_nobody_knows_no_more_is_read_than_asked_for(server):
    server.moods["/a.jpg"] = "chunked"
    assert STORAGE.read(f"{server.url}/a.jpg", most=100) == DATA[:100]


def test_an_empty_object_is_there(server):
    server.moods["/empty.jpg"] = "no head"
    file = STORAGE.file(f"{server.url}/empty.jpg")
    assert file is not None
    assert file.size == 0
    assert STORAGE.read(file.uri, etag=file.etag) == b""


def test_a_part_of_a_large_object_is_refused_where_a_server_has_only_wholes(server, monkeypatch):
    server.moods["/a.jpg"] = "no ranges"
    monkeypatch.setattr(http_objects, "MOST_SKIPPED_BYTES", 1000)
    with pytest.raises(StorageFault, match=rf"{server.url} does not know Range"):
        STORAGE.read(f"{server.url}/a.jpg", start=500, stop=1500)


def test_a_part_that_the_object_does_not_have_is_a_fault(server):
    with pytest.raises(StorageFault, match=r"ends at 256000"):
        STORAGE.read(f"{server.url}/a.jpg", start=255_999, stop=256_001)


def test_an_object_that_changed_is_not_the_one_that_was_planned(server):
    for options in ({}, {"start": 2, "stop": 4}):
        with pytest.raises(SourceChanged, match=r"a\.jpg changed"):
            STORAGE.read(f"{server.url}/a.jpg", etag="another", **options)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("x%20y%23%C3%A9%5B1%5D%2A.jpg", "/x%20y%23%C3%A9%5B1%5D%2A.jpg"),
        ("x y%23é[1]*.jpg", "/x%20y%23%C3%A9%5B1%5D*.jpg"),
        ("a.jpg?versionId=1&x=a/b", "/a.jpg?versionId=1&x=a/b"),
        ("a.jpg?sig=%2Fa+b", "/a.jpg?sig=%2Fa+b"),
        ("x::y%41%2F.jpg", "/x::y%41%2F.jpg"),
        ("100%.jpg", "/100%25.jpg"),
        ("who@host.jpg", "/who@host.jpg"),
        ("line\nbreak.jpg", "/line%0Abreak.jpg"),
        ("byte\udcff.jpg", "/byte%FF.jpg"),
    ],
)
def test_a_url_is_asked_for_as_it_is_written(server, name, asked):
    STORAGE.file(STORAGE.absolute(f"{server.url}/{name}"))
    assert ("HEAD", asked) in server.asked


def test_what_the_pages_of_a_site_have_links_to_is_listed():
    page = b'<a href="?C=N">Name</a><a href="/">up</a><a href="%s">x</a>'
    names = {"d/": page % b"a%20b.jpg", "d/a b.jpg": b"1"}
    with site(names) as here:
        here.content["/d/"] += b'<a href="in/">in</a>'
        here.content["/d/in/"] = page % b"x%3A%3Ay.jpg"
        here.content["/d/in/x%3A%3Ay.jpg"] = b"12"
        listed = {file.uri: file.size for file in STORAGE.files(f"{here.url}/d")}
        assert listed == {f"{here.url}/d/a%20b.jpg": 1, f"{here.url}/d/in/x%3A%3Ay.jpg": 2}
