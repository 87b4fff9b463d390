"""The job from a bucket to a bucket, on a real S3 server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import s3fs
from drawn import FAR, MIXED_IDS, mixed_corpus, png, tar
from job_runs import Ended, Here, Jobs
from s3 import KEY, SECRET, S3Server, s3_server
from table_rows import Run, assert_same, rows_of

from jobs import segment_corpus
from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import ReadSettings
from pipeline.corpora.sources import Source
from pipeline.labelling.reading.unit_loader import UnitLoader
from pipeline.planning.planner import Unit
from pipeline.storage import Storage

pytestmark = pytest.mark.timeout(600)

TABLE = "s3://test/table"
OPTIONS = {
    "corpus": "s3://test/corpus",
    "table": TABLE,
    "unit_images": 3,
    "label_ids_to_fuse": "1,2",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(server: S3Server) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, use_listings_cache=False
    )


@pytest.fixture(scope="module")
def storage(server: S3Server) -> Storage:
    return Storage(endpoint_url=server.endpoint_url, key=KEY, secret=SECRET, region="us-east-1")


@pytest.fixture(scope="module")
def ended(jobs: Jobs, server: S3Server, bucket: s3fs.S3FileSystem, usual: dict[str, Any]) -> Ended:
    """A run on Ray that knows the server and who it is by its environment alone."""
    bucket.pipe({f"test/corpus/{name}": data for name, data in _corpus_in_bucket().items()})
    bucket.pipe_file("test/elsewhere/far.png", FAR)
    return jobs.run(environment=server.environment, **OPTIONS, **usual).expect(0)


def _corpus_in_bucket() -> dict[str, bytes]:
    return mixed_corpus(elsewhere="s3://test/elsewhere/far.png")


def test_a_bucket_gives_the_rows_that_a_disk_gives(
    ended: Ended, storage: Storage, mixed: Run
) -> None:
    rows = rows_of(TABLE, storage=storage)
    assert rows.ids == sorted(MIXED_IDS)
    assert_same(rows, mixed.rows, apart_from=["uri", "etag", "unit_id"])
    assert {row["uri"].split("/", 3)[2] for row in rows.images} == {"test"}
    assert f"labelled {len(MIXED_IDS)} images" in ended.stdout
    ended.assert_quiet(units=len({row["unit_id"] for row in rows.images}))


def test_a_second_run_on_a_bucket_has_nothing_to_do(
    here: Here,
    ended: Ended,
    server: S3Server,
    usual: dict[str, Any],
    bucket: s3fs.S3FileSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)

    again = here(segment_corpus.main, **OPTIONS, **usual)

    assert again.exit_code == 0
    assert "nothing to do" in again.stderr
    # The server keeps an empty folder.
    assert not [name for name in bucket.find("test/table/_staging") if name.endswith(".parquet")]


def test_credentials_are_in_no_table_report_log_or_output(
    ended: Ended, bucket: s3fs.S3FileSystem
) -> None:
    files = bucket.cat(bucket.find("test/table"))
    assert any(name.endswith("settings.yaml") for name in files)
    assert any(name.endswith("report.json") for name in files)
    logs = [path for path in ended.ray_folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("raylet") for path in logs)
    texts = {**files, "output": (ended.stdout + ended.stderr).encode()}
    texts |= {str(path): path.read_bytes() for path in logs}
    for secret in (KEY, SECRET):
        assert [name for name, text in texts.items() if secret.encode() in text] == []


@pytest.mark.parametrize("kind", ["file", "tar"])
def test_a_source_that_changed_after_the_plan_is_a_fault_of_its_unit_and_never_a_mixture(
    kind: str, bucket: s3fs.S3FileSystem, storage: Storage, tiny_model: Path
) -> None:
    ending = {"file": "png", "tar": "tar"}[kind]
    versions = {"file": [png(0), png(3)], "tar": [tar({"a.png": png(0)}), tar({"a.png": png(3)})]}
    uri = f"s3://test/changing/{kind}.{ending}"
    old, new = versions[kind]
    bucket.pipe_file(uri, old)
    there = storage.file(uri)
    assert there is not None
    source = Source(uri=uri, name=f"a.{ending}", kind=kind, etag=there.etag, size=there.size)  # type: ignore[arg-type]
    assert _kinds(source, storage=storage, model=tiny_model) == ["image", "end"]

    bucket.pipe_file(uri, new)

    assert _kinds(source, storage=storage, model=tiny_model) == ["fault"]


def _kinds(source: Source, *, storage: Storage, model: Path) -> list[str]:
    loader = UnitLoader(
        storage=storage,
        reading=ReadSettings(),
        processor=MaskFormerImageProcessor.from_pretrained(model),
        block_bytes=2**20,
    )
    rows = pa.concat_tables(loader(Unit(unit_id="u", sources=(source,)).table()))
    return rows["kind"].to_pylist()
