"""What ends a run early is one line and the right exit code."""

import pytest
from corpora import put

from pipeline.cli.running import run_job
from pipeline.runtime.exit_codes import ExitCode
from pipeline.storage import Storage

MODEL = "pipeline/demo/sample_model"


def run_label(capsys, corpus: str, table: str, *more: str) -> tuple[int, str]:
    words = [f"--corpus={corpus}", f"--table={table}", f"--model={MODEL}", "--local=false", *more]
    code = run_job("label", words)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("corpus", "found"),
    [
        ("{root}/i/phot", "nearest place with anything is {root}/i, with photo.jpg"),
        ("{root}/*.png", "nothing that is there below {root} matches"),
        ("s3://", "must name a bucket"),
        ("gs://bucket/photos", "pip install gcsfs"),
        ("ipfs://bucket/photos", "no protocol ipfs://"),
        ("{root}/twice.csv", "'a' is that of {root}/i/other.jpg and {root}/i/photo.jpg"),
        ("{root}/open.csv", "open.csv, line 2"),
        ("{root}/names.csv", "names.csv: a manifest must have one column of locations called uri"),
    ],
)
def test_a_corpus_that_cannot_be_read_as_it_stands_is_wrong_usage_in_one_line(
    tmp_path, capsys, corpus, found
):
    root = put(
        tmp_path / "c",
        {
            "i/photo.jpg": b"1",
            "twice.csv": b"uri,image_id\ni/photo.jpg,a\ni/other.jpg,a\n",
            "open.csv": b'uri,caption\ni/photo.jpg,"a\n',
            "names.csv": b"name\ni/photo.jpg\n",
        },
    )
    code, said = run_label(capsys, corpus.format(root=root), str(tmp_path / "table"))
    assert code == ExitCode.WRONG_USAGE
    assert found.format(root=root) in said
    assert said.count("\n") == 1
    assert "again" not in said
    assert not (tmp_path / "table").exists()


def test_a_table_where_a_file_is_is_wrong_usage(tmp_path, capsys):
    root = put(tmp_path, {"c/a.jpg": b"1", "file": b""})
    code, said = run_label(capsys, f"{root}/c", f"{root}/file")
    assert (code, said.count("\n")) == (ExitCode.WRONG_USAGE, 1)
    assert f"{root}/file is a file" in said


def test_how_a_manifest_is_read_is_said_before_work_begins(tmp_path, capsys, monkeypatch):
    """Here there is no work: what the manifest names is done already."""
    monkeypatch.setattr("pipeline.runtime.cluster.connect", lambda *_: pytest.fail("no work"))
    root = put(tmp_path / "c", {"a.jpg": b"1", "m.csv": b"image_url;n\na.jpg;1\n"})
    monkeypatch.setattr("pipeline.planning.planner.ListingDiff.new", lambda self: iter(()))
    code, said = run_label(capsys, f"{root}/m.csv", str(tmp_path / "table"))
    assert code == ExitCode.DONE
    assert "m.csv: the locations are taken from its column image_url" in said
    assert Storage().file(f"{tmp_path}/table/_table.json") is not None
