"""The job on an S3 server of whose requests some fail: nothing is lost, and all is counted."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import s3fs
from drawn import FAR, MIXED_IDS, mixed_corpus, plain_corpus
from job_runs import Jobs
from s3 import KEY, SECRET, S3Server, s3_server
from s3_proxy import KINDS, s3_proxy
from table_rows import rows_of

from pipeline.storage import Storage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

TABLE = "s3://test/table"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


class CommandLines:
    """Collects the command lines of all processes inside its `with`."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "CommandLines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for process in psutil.process_iter(["cmdline"]):
                self.seen.add(" ".join(process.info["cmdline"] or ()))


def test_a_job_at_5_percent_of_faults_loses_and_doubles_nothing_and_shows_no_credential(
    jobs: Jobs, server: S3Server, usual: dict[str, Any]
) -> None:
    bucket = s3fs.S3FileSystem(
        endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, use_listings_cache=False
    )
    plain = {f"plain/{name}": data for name, data in plain_corpus(60).items()}
    corpus = plain | mixed_corpus(elsewhere="s3://test/elsewhere/far.png")
    bucket.pipe({f"test/corpus/{name}": data for name, data in corpus.items()})
    bucket.pipe_file("test/elsewhere/far.png", FAR)
    with s3_proxy(server, rate=0.05, seed=2) as proxy, CommandLines() as lines:
        began = time.monotonic()
        ended = jobs.run(
            environment=proxy.environment,
            corpus="s3://test/corpus",
            table=TABLE,
            unit_images=3,
            label_ids_to_fuse="1,2",
            read_timeout_seconds=2,
            **usual,
        ).expect(0)
        seconds = time.monotonic() - began

    storage = Storage(endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, region="us-east-1")
    rows = rows_of(TABLE, storage=storage)
    assert rows.ids == sorted([*plain, *MIXED_IDS])
    assert {row["status"] for row in rows.images} == {"ok"}
    files = bucket.cat(bucket.find("test/table"))
    [report] = [json.loads(text) for name, text in files.items() if name.endswith("report.json")]
    told = report["storage_retries"]
    # The report's own writing is in no report; a connection that broke may be replaced unseen.
    answered = proxy.faults["slow down"] + proxy.faults["internal error"]
    assert 0.8 * answered - 2 <= sum(told.values()) <= 1.3 * proxy.faults.total() + 2
    assert report["storage_wait_seconds"] > 0
    assert "storage requests that were repeated: " in ended.stdout

    logs = [path for path in ended.ray_folder.rglob("*") if path.is_file()]
    assert any(name.endswith("settings.yaml") for name in files)
    texts = {**files, "output": (ended.stdout + ended.stderr).encode()}
    texts |= {str(path): path.read_bytes() for path in logs}
    texts |= {line: line.encode() for line in lines.seen}
    assert any("segment_corpus" in line for line in lines.seen)
    assert any("raylet" in line for line in lines.seen)
    for secret in (KEY, SECRET):
        assert [name for name, text in texts.items() if secret.encode() in text] == []
    print(
        f"figure: a job over a proxy with 5% S3 faults of {len(KINDS)} kinds: exit code 0, "
        f"{len(rows.ids)} images, lost 0, doubled 0; {proxy.faults.total()} faults in "
        f"{proxy.requests.total():,} requests, {sum(told.values())} told by the report "
        f"({told}), {report['storage_wait_seconds']} s of waiting, {seconds:.0f} s in all"
    )
