"""Who may ask the server, for what, and what it tells the browser."""

import socket
from collections.abc import Iterator

import pytest
from page_clients import PageClient, opened_page, submission
from photo_tables import box_photo, encoded, label_corpus, make_table, write_corpus

from pipeline.review_page.security import HEADERS, Access
from pipeline.review_page.settings import TOKEN_VARIABLE, PageSettings
from pipeline.storage import Storage

MARKUP = "<img src=x onerror=alert(1)>\"'&amp;.jpg"
PATHS = [
    "/",
    "/static/index.html",
    "/api/table",
    "/api/images",
    "/api/segments?image_id=x",
    "/api/photo?image_id=x",
    "/api/thumbnail?image_id=x",
    "/api/claims?image_id=x",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageClient]:
    folder = tmp_path_factory.mktemp("security")
    names = ["plain.jpg", MARKUP, "../outside.jpg".replace("/", "\u2215"), "a b#?%2e.jpg"]
    write_corpus(f"{folder}/corpus", kind="files", count=4, storage=Storage(), names=names)
    table = label_corpus(f"{folder}/corpus", f"{folder}/table")
    Storage().write(f"{folder}/secret.txt", b"secret")
    with opened_page(table.uri) as (client, _):
        yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cookie", [None, "", "{name}=", "{name}=wrong", "other={token}"])
def test_without_the_token_nothing_is_served(client, path, cookie):
    access = client.access
    if cookie is not None:
        cookie = cookie.format(name=access.cookie, token=access.token)
    answer = client.ask("GET", path, headers={"Cookie": cookie})
    assert answer.status == 401
    assert set(answer.json) == {"error"}
    assert access.token.encode() not in answer.body


def test_the_printed_address_sets_a_cookie_that_no_script_reads_and_no_other_site_sends(client):
    answer = client.ask("GET", f"/?token={client.access.token}", headers={"Cookie": None})
    assert answer.status == 200
    cookie = answer.headers["Set-Cookie"]
    assert f"{client.access.cookie}={client.access.token}" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie
    assert "Secure" not in cookie, "there is no TLS on 127.0.0.1"
    assert b"url=/" in answer.body
    assert client.access.token.encode() not in answer.body
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("token", ["", "wrong", "%C3%A9", "%ff", "x" * 5000])
def test_another_token_opens_nothing(client, token):
    answer = client.ask("GET", f"/?token={token}", headers={"Cookie": None})
    assert answer.status == 401
    assert "Set-Cookie" not in answer.headers


def test_a_token_in_the_address_of_the_api_opens_nothing(client):
    path = f"/api/table?token={client.access.token}"
    assert client.ask("GET", path, headers={"Cookie": None}).status == 401


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}"],
)
def test_under_another_name_nothing_is_served(client, path, host):
    """Asks as a browser does under a name that an attacker points at 127.0.0.1."""
    port = client.url.rpartition(":")[2]
    answer = client.get(path, headers={"Host": host.format(port=port)})
    assert answer.status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_this_machines_own_names_are_served(client, host):
    port = client.url.rpartition(":")[2]
    assert client.get("/api/table", headers={"Host": f"{host}:{port}"}).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "https://{host}",
        "",
    ],
)
def test_another_origin_may_neither_read_nor_change(client, origin):
    origin = origin.format(host=client.url.removeprefix("http://"))
    state = client.get("/api/segments", image_id="plain.jpg").json
    for answer in (
        client.get("/api/table", headers={"Origin": origin}),
        client.post("/api/revisions", submission(state), headers={"Origin": origin}),
        client.post("/api/claims", {"image_id": "plain.jpg"}, headers={"Origin": origin}),
    ):
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.get("/api/segments", image_id="plain.jpg").json["revision"] == 0


def test_a_change_without_an_origin_is_refused(client):
    state = client.get("/api/segments", image_id="plain.jpg").json
    answer = client.post("/api/revisions", submission(state), headers={"Origin": None})
    assert answer.status == 403


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_a_form_of_another_site_changes_nothing(client, kind):
    """Sends what a form can send, with the cookie."""
    state = client.get("/api/segments", image_id="plain.jpg").json
    for origin in ("https://evil.example", client.url):
        answer = client.post(
            "/api/revisions", submission(state), headers={"Content-Type": kind, "Origin": origin}
        )
        assert answer.status == (415 if origin == client.url else 403)


@pytest.mark.parametrize("path", PATHS[1:])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pictures_and_answers_are_not_loaded_into_another_site(client, path, site):
    answer = client.get(path, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
    assert answer.status == 403
    framed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=framed).status == 200, "a link to the page works"


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/api/nowhere", "/static/none.js"])
def test_every_answer_carries_the_headers_that_bind_the_browser(client, path):
    for answer in (client.get(path), client.ask("GET", path, headers={"Cookie": None})):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert HEADERS["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client, method):
    answer = client.ask(
        method, "/api/revisions",
        headers={"Origin": client.url, "Content-Type": "application/json"},
    )  # fmt: skip
    assert answer.status == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings.py", "/static/%2e%2e/settings.py", "/static/..%2fsettings.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret.txt", "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/....//settings.py", "/static/..%5csettings.py", "/static/index.html%00.js",
        "/static/./../settings.py", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/static/", "/static/%c0%ae%c0%ae/settings.py",
    ],
)  # fmt: skip
def test_a_path_with_dots_never_leaves_the_pages_own_files(client, path):
    """Sent as it stands: clients make such paths proper."""
    host, _, port = client.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
            f"Cookie: {client.access.cookie}={client.access.token}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
    assert answer.split()[1] in (b"404", b"400"), answer[:100]
    assert b"root:" not in answer
    assert b"secret" not in answer
    assert b"dataclass" not in answer


@pytest.mark.parametrize("route", ["segments", "photo", "thumbnail", "claims"])
@pytest.mark.parametrize(
    "image_id",
    ["../secret.txt", "/etc/passwd", "s3://bucket/key", "..", "\x00", "a" * 4000, "%2e%2e"],
)
def test_an_image_id_is_looked_up_and_never_a_path(client, route, image_id):
    answer = client.get(f"/api/{route}", image_id=image_id)
    if route == "claims":
        assert answer.json["claims"] == []
    else:
        assert answer.status == 404
    assert "json" in answer.headers["Content-Type"]


def test_an_image_id_with_markup_is_text_everywhere(client):
    listed = client.get("/api/images").json["images"]
    assert MARKUP in [image["image_id"] for image in listed]
    for image in listed:
        assert client.get("/api/thumbnail", image_id=image["image_id"]).status == 200
        assert client.get("/api/segments", image_id=image["image_id"]).status == 200
    missing = client.get("/api/segments", image_id=f"{MARKUP}2")
    assert missing.headers["Content-Type"].startswith("application/json")
    assert missing.headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_that_is_answered_holds_a_credential(client):
    for path in PATHS:
        answer = client.get(path)
        assert client.access.token.encode() not in answer.body


def test_behind_a_proxy_its_address_is_known_and_the_cookie_needs_tls(tmp_path):
    table = make_table(tmp_path, count=1)
    page = PageSettings(public_address="https://review.example.org")
    own = {"Host": "review.example.org"}
    with opened_page(table.uri, page=page) as (client, _):
        assert client.get("/api/table", headers=own).status == 200
        state = client.get("/api/segments", image_id="000.jpg", headers=own).json
        saved = client.post(
            "/api/revisions", submission(state),
            headers={**own, "Origin": "https://review.example.org"},
        )  # fmt: skip
        assert saved.status == 201
        plain = {**own, "Origin": "http://review.example.org"}
        assert client.post("/api/revisions", submission(state), headers=plain).status == 403
        opening = client.get("/", token=client.access.token, headers=own)
        assert "Secure" in opening.headers["Set-Cookie"]
        assert client.get("/api/table", headers={"Host": "other.example.org"}).status == 421


def test_tokens_are_long_and_each_is_another(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    tokens = {Access.of(PageSettings(), port=1).token for _ in range(10)}
    assert len(tokens) == 10
    assert min(map(len, tokens)) >= 43
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef")
    assert Access.of(PageSettings(), port=1).token == "0123456789abcdef"


def test_a_photograph_beyond_the_limits_of_the_job_is_not_decoded(tmp_path):
    from pipeline.corpora.settings import ReadSettings

    table = make_table(tmp_path, count=1)
    for limit in ({"max_image_pixels": 100}, {"max_image_bytes": 100}):
        with opened_page(table.uri, reading=ReadSettings(**limit)) as (client, _):
            for route in ("photo", "thumbnail"):
                answer = client.get(f"/api/{route}", image_id="000.jpg")
                assert answer.status in (410, 422)
                assert next(iter(limit)) in answer.json["error"]


def test_a_photograph_of_another_size_than_its_segments_is_not_shown(tmp_path):
    table = make_table(tmp_path, count=1)
    other = encoded(box_photo(0, height=50, width=50))
    Storage().write(f"{tmp_path}/moved/000.jpg", other)
    with opened_page(table.uri, image_root=f"{tmp_path}/moved") as (client, _):
        answer = client.get("/api/photo", image_id="000.jpg")
        assert answer.status == 422
        assert "50 x 50 pixels, and the table 60 x 90" in answer.json["error"]
