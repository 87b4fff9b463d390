"""The commands as people start them: real processes, real sockets, signals and kills."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from page_clients import submission, with_label
from photo_tables import make_table
from ports import free_ports
from s3 import KEY, SECRET, S3Server

from pipeline.cli.__main__ import main
from pipeline.review_page.serving import listening
from pipeline.review_page.settings import TOKEN_VARIABLE, PageSettings
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import Storage

TOKEN = "a-token-of-the-tests"


class Server:
    """A process of the command, and a browser at it."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.port = int(address.split(":")[2].split("/")[0])
        self.headers = {"Cookie": f"maskformer_page_{self.port}={TOKEN}"}

    @property
    def changing_headers(self) -> dict[str, str]:
        own = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        return {**self.headers, **own}

    def ask(self, path: str, content: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if content is None:
            connection.request("GET", path, headers=self.headers)
        else:
            connection.request("POST", path, json.dumps(content), self.changing_headers)
        response = connection.getresponse()
        return response.status, response.read()

    def state(self, image_id: str) -> dict[str, Any]:
        status, body = self.ask(f"/api/segments?image_id={quote(image_id)}")
        assert status == 200, body
        return json.loads(body)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Sends a signal, as a terminal does to all its processes; returns exit code and stderr."""
        os.killpg(self.process.pid, number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextlib.contextmanager
def running(*words: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *words, "--no_open"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, TOKEN_VARIABLE: TOKEN, **(environment or {})},
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("the page is at http://127.0.0.1:"), process.communicate()[1]
        yield Server(process, line.split()[-1])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_table(tmp_path_factory.mktemp("server"), count=12).uri


def test_ctrl_c_ends_the_command_in_peace(table):
    with running("gallery", table, "--port", "0") as server:
        assert server.address.endswith(f"/?token={TOKEN}")
        status, body = server.ask("/api/images")
        assert (status, json.loads(body)["total"]) == (200, 12)
        assert server.ask("/api/thumbnail?image_id=000.jpg")[0] == 200
        assert server.ask("/")[0] == 200
        code, errors = server.stop()
    assert code == 0
    assert "stopped" in errors
    assert "Traceback" not in errors, errors


def test_a_server_that_is_killed_in_the_middle_of_saves_loses_none_and_doubles_none(tmp_path):
    """The page sends each save again until it is answered, as it does with its drafts."""
    table = make_table(tmp_path, count=12).uri
    port = str(free_ports(1)[0])
    log = ReviewLog.of_table(table, reviews=None, storage=Storage())
    contents: list[dict[str, Any]] = []
    answered: dict[str, int] = {}
    for attempt in range(2):
        with running("review", table, "--port", port, "--reviewer", "ana") as server:
            if not contents:
                for number in range(12):
                    state = server.state(f"{number:03}.jpg")
                    contents.append(submission(state, segments=with_label(state, 3, "tree")))
            killer = threading.Timer(0.03, server.process.kill)
            if attempt == 0:
                killer.start()
            for content in contents:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    status, body = server.ask("/api/revisions", content)
                    assert status == 201, body
                    answered[content["image_id"]] = json.loads(body)["revision"]
            killer.cancel()
    assert answered == {content["image_id"]: 1 for content in contents}
    for content in contents:
        (revision,) = log.history(content["image_id"])
        assert revision.segments[2].label == "tree"
    left = [path.name for path in Path(table, "_reviews").rglob("*") if path.is_file()]
    assert sum(name == "00000001.parquet" for name in left) == 12


def test_two_servers_on_one_table_see_each_others_saves_and_claims(table):
    first = running("review", table, "--port", "0", "--reviewer", "ana")
    second = running("review", table, "--port", "0", "--reviewer", "ben")
    with first as ana, second as ben:
        before = ana.state("005.jpg")
        of_ben = ben.state("005.jpg")
        assert ana.ask("/api/claims", {"image_id": "005.jpg"})[0] == 200
        claims = json.loads(ben.ask("/api/claims?image_id=005.jpg")[1])["claims"]
        assert [claim["reviewer"] for claim in claims] == ["ana"]
        saved = submission(before, segments=with_label(before, 3, "car"))
        assert ana.ask("/api/revisions", saved)[0] == 201
        mine = submission(of_ben, segments=with_label(of_ben, 3, "sky"))
        status, body = ben.ask("/api/revisions", mine)
        assert status == 409
        assert json.loads(body)["theirs"]["reviewer"] == "ana"
        assert ben.state("005.jpg")["reviewer"] == "ana"
        for server in (ana, ben):
            code, errors = server.stop(signal.SIGTERM)
            assert (code, "Traceback" in errors) == (0, False), errors


def test_a_save_in_progress_is_finished_before_the_server_ends(tmp_path):
    table = make_table(tmp_path, count=1).uri
    with running("review", table, "--port", "0", "--reviewer", "ana") as server:
        state = server.state("000.jpg")
        # A history of many steps, so that the signal comes while the save is checked.
        steps = [{"kind": "brush", "segment_ids": [3], "pixels": 9}] * 2_000
        content = json.dumps(submission(state, operations=steps))
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", "/api/table", headers=server.headers)
        connection.getresponse().read()
        connection.request("POST", "/api/revisions", content, server.changing_headers)
        server.process.send_signal(signal.SIGINT)
        response = connection.getresponse()
        assert response.status == 201, response.read()
        _, errors = server.process.communicate(timeout=60)
        assert server.process.returncode == 0, errors
    log = ReviewLog.of_table(table, reviews=None, storage=Storage())
    assert [len(revision.operations) for revision in log.history("000.jpg")] == [2_000]


def test_a_table_on_s3_is_reviewed_with_the_jobs_own_access(s3: S3Server):
    storage = Storage(endpoint_url=s3.endpoint_url, region="us-east-1", key=KEY, secret=SECRET)
    table = make_table("s3://test/served", kind="tar", count=5, storage=storage).uri
    with running("review", table, "--port", "0", environment=s3.environment) as server:
        listed = json.loads(server.ask("/api/images")[1])["images"]
        assert [image["image_id"] for image in listed][:2] == ["shard.tar/000", "shard.tar/001"]
        for image in listed:
            name = quote(image["image_id"])
            status, data = server.ask(f"/api/thumbnail?image_id={name}")
            assert (status, data[:2]) == (200, b"\xff\xd8")
        state = server.state("shard.tar/003")
        saved = submission(state, segments=with_label(state, 3, "car"))
        assert server.ask("/api/revisions", saved)[0] == 201
        everything = b"".join(
            server.ask(path)[1] for path in ("/", "/api/table", "/api/images", "/api/nothing")
        )
        assert KEY.encode() not in everything
        assert SECRET.encode() not in everything
        code, errors = server.stop()
    assert code == 0
    assert SECRET not in errors
    log = ReviewLog.of_table(table, reviews=None, storage=storage)
    assert log.latest("shard.tar/003").segments[2].label == "car"  # type: ignore[union-attr]


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--no_open"]) == 2
    return capsys.readouterr().err


def test_a_page_that_is_open_already_leaves_the_next_port_to_a_second(capsys):
    with contextlib.closing(listening("127.0.0.1", 0)) as first:
        first.listen()
        port = first.getsockname()[1]
        with contextlib.closing(listening("127.0.0.1", port, tries=10)) as second:
            assert port < second.getsockname()[1] < port + 10
        assert f"port {port} is taken" in capsys.readouterr().err
        with pytest.raises(WrongUsage, match="choose another --port"):
            listening("127.0.0.1", port)


def test_another_host_is_refused_without_a_token(table, capsys, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    refused = failed(capsys, "review", table, "--host", "192.0.2.1")
    assert f"set {TOKEN_VARIABLE}" in refused
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    assert "at least 16 characters, it has 5" in failed(capsys, "review", table)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert "cannot listen on 192.0.2.1" in failed(
        capsys, "review", table, "--host", "192.0.2.1", "--port", "0"
    )
    assert "needs public_address" in failed(capsys, "review", table, "--host", "0.0.0.0")
    assert "--public_address" in failed(capsys, "review", table, "--reviewer_header", "X-User")
    assert "public_address must be as" in failed(
        capsys, "gallery", table, "--public_address", "review.example.org"
    )


def test_a_port_that_is_taken_is_said(table, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        refused = failed(capsys, "gallery", table, "--port", port)
    assert "another page may be open there" in refused


def test_what_is_no_table_queue_or_agreement_is_refused_in_one_line(table, tmp_path, capsys):
    assert "is no segment table: the folder" in failed(capsys, "gallery", str(tmp_path))
    (tmp_path / "text.parquet").write_text("no Parquet")
    common = ["--port", "0"]
    missing = failed(capsys, "review", table, "--queue", f"{tmp_path}/none.parquet", *common)
    assert "--queue must name a Parquet file" in missing
    damaged = failed(capsys, "review", table, "--queue", f"{tmp_path}/text.parquet", *common)
    assert "text.parquet is no Parquet file" in damaged
    images = next(Path(table, "images").glob("*.parquet"))
    other = failed(capsys, "gallery", table, "--agreement", str(images), *common)
    assert "the columns image_id, disagreement" in other


def test_the_port_follows_from_the_table_so_that_drafts_are_found_again():
    page = PageSettings()
    assert page.port_for("/data/table") == page.port_for("/data/table")
    assert len({page.port_for(f"/data/table-{number}") for number in range(50)}) > 45
    assert all(20_000 <= page.port_for(f"t{number}") < 40_000 for number in range(50))
    assert PageSettings(port=0).port_for("/data/table") == 0
