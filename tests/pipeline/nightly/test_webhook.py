"""The webhook hears of failures and drift, keeps its secret, and can spoil nothing."""

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator, Sequence

import pytest
from drawn_runs import DrawnImage, label_earlier_runs, label_run, new_table, report, usual_images

from pipeline.cli.running import run_job
from pipeline.nightly.reporting import publish_report, webhook
from pipeline.nightly.settings import ReportSettings

RUN = "20260120T020000-thisone"
SECRET = "T0000-s3cr3t-t0k3n"
VARIABLE = "LABELLING_WEBHOOK"
SETTINGS = ReportSettings(
    webhook_variable=VARIABLE, webhook_seconds=20, strangest_images=0, sheet_images=0
)


@dataclasses.dataclass
class WebhookServer:
    """A server on this machine that answers as it is told, and what it was sent."""

    answers: Sequence[int | str]
    bodies: list[dict] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    url: str = ""
    is_over: threading.Event = dataclasses.field(default_factory=threading.Event)


@pytest.fixture
def server(monkeypatch) -> Iterator[WebhookServer]:
    said = WebhookServer(answers=[200])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            said.bodies.append(json.loads(body))
            said.paths.append(self.path)
            answer = said.answers[min(len(said.bodies), len(said.answers)) - 1]
            if answer == "silence":
                said.is_over.wait(20)
                return
            if answer == "reset":
                self.connection.close()
                return
            self.send_response(int(answer))
            if answer == 302:
                self.send_header("Location", f"{said.url}/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    said.url = f"http://127.0.0.1:{listening.server_address[1]}/services/{SECRET}"
    monkeypatch.setenv(VARIABLE, said.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(webhook, "_FIRST_WAIT_SECONDS", 0.01)
    yield said
    said.is_over.set()
    listening.shutdown()
    listening.server_close()
    thread.join()


def published_messages(
    tmp_path, *, drifted: bool = False, settings: ReportSettings = SETTINGS, **changes
):
    table = new_table(tmp_path)
    images = usual_images("now", 200, seed=1)
    if drifted:
        label_earlier_runs(table, 1)
        images = [DrawnImage(image_id=f"{n}", shares={2: 0.9}) for n in range(200)]
    label_run(table, RUN, {"now": images})
    return table, publish_report(table, RUN, report(RUN, **changes), settings)


def test_a_failure_is_sent_as_a_small_text(tmp_path, server):
    table, lines = published_messages(tmp_path, exit_code=75, faults={"u": "StorageFault: away"})
    (body,) = server.bodies
    assert body.keys() == {"text"}
    assert "StorageFault: away" in body["text"]
    assert "run the same command again" in body["text"]
    assert body["text"].endswith(table.file("_runs", RUN, "report.html"))
    assert server.paths == [f"/services/{SECRET}"]
    assert lines[-1] == "webhook: sent"


def test_drift_is_sent(tmp_path, server):
    _, lines = published_messages(tmp_path, drifted=True)
    (body,) = server.bodies
    assert "labels by area changed (index " in body["text"]
    assert lines[-1] == "webhook: sent"


@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_run_that_ended_well_is_nobodys_business(tmp_path, server, exit_code):
    _, lines = published_messages(tmp_path, exit_code=exit_code)
    assert server.bodies == []
    assert not [line for line in lines if "webhook" in line]


@pytest.mark.parametrize(("dry_run", "sent"), [("false", 1), ("true", 0)])
def test_a_run_that_ends_without_a_report_is_sent_too(tmp_path, server, capfd, dry_run, sent):
    words = [
        f"--corpus={tmp_path}", f"--table={tmp_path}/table", f"--model={tmp_path}/no_model",
        f"--webhook_variable={VARIABLE}", f"--dry_run={dry_run}",
    ]  # fmt: skip
    assert run_job("nightly", words) == 2
    assert len(server.bodies) == sent
    for body in server.bodies:
        assert f"{tmp_path}/table ended without a report" in body["text"]
        assert "no_model" in body["text"]
    assert ("webhook: sent" in capfd.readouterr().err) == bool(sent)


def test_names_mention_nobody(tmp_path, server):
    published_messages(
        tmp_path, exit_code=75, faults={"u": "<!channel> <http://evil|click> & more"}
    )
    (body,) = server.bodies
    assert "&lt;!channel&gt; &lt;http://evil|click&gt; &amp; more" in body["text"]
    assert "<" not in body["text"]


def test_a_long_text_is_cut(server):
    assert webhook.send("x" * 100_000, settings=SETTINGS) == "webhook: sent"
    assert len(server.bodies[0]["text"]) == 3000


@pytest.mark.parametrize(
    ("answers", "attempts", "line"),
    [
        ([500, 200], 2, "webhook: sent"),
        (["reset", 429, 200], 3, "webhook: sent"),
        ([503], 3, "webhook: could not be sent, HTTP 503"),
        ([404, 200], 1, "webhook: could not be sent, HTTP 404"),
        ([302, 200], 1, "webhook: could not be sent, HTTP 302"),
    ],
)
def test_what_may_pass_is_tried_again_and_not_for_ever(server, answers, attempts, line):
    server.answers = answers
    assert webhook.send("text", settings=SETTINGS) == line
    assert len(server.bodies) == attempts


def test_a_webhook_that_is_silent_is_waited_for_so_many_seconds(server):
    server.answers = ["silence"]
    settings = dataclasses.replace(SETTINGS, webhook_seconds=0.2)
    line = webhook.send("text", settings=settings)
    assert line == "webhook: could not be sent, TimeoutError"
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:1/{SECRET}",
        f"https://127.0.0.1:1/{SECRET}",
        f"http://nowhere.invalid/{SECRET}",
        f"ftp://127.0.0.1/{SECRET}",
        f"file:///etc/{SECRET}",
        f"http://127.0.0.1:{SECRET}/",
        f"http://[{SECRET}",
        f"http://127.0.0.1/ {SECRET}\x01",
        f"{SECRET}",
        "",
    ],
)
def test_a_webhook_that_cannot_be_reached_is_a_line_without_its_secret(
    tmp_path, server, monkeypatch, capfd, url
):
    monkeypatch.setenv(VARIABLE, url)
    table, lines = published_messages(tmp_path, exit_code=75)
    assert lines[-1].startswith(("webhook: could not be sent", "webhook: not sent"))
    written = [
        table.storage.read(file.uri).decode(errors="replace")
        for file in table.storage.files(table.file("_runs"))
    ]
    shown = capfd.readouterr()
    for text in (*lines, *written, shown.out, shown.err, repr(SETTINGS)):
        assert SECRET not in text
    assert server.bodies == []


def test_without_a_variable_nothing_is_sent(tmp_path, server):
    settings = dataclasses.replace(SETTINGS, webhook_variable=None)
    _, lines = published_messages(tmp_path, settings=settings, exit_code=75)
    assert server.bodies == []
    assert not [line for line in lines if "webhook" in line]
