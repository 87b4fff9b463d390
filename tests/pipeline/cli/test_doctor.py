"""The doctor: what is there is said, what is missing is named with a way out, nothing is left."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import ray

from pipeline.cli.__main__ import main
from pipeline.demo.demo import SAMPLE_MODEL


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield free.getsockname()[1]


def asked(capfd, *words: str) -> tuple[int, dict[str, str], str]:
    """Exit code, lines by subject, and the whole text."""
    code = main(["doctor", *words])
    text = capfd.readouterr().out
    lines = [line for line in text.splitlines()[:-1] if ": " in line and line[0] != " "]
    return code, {line[11:].split(":")[0]: line for line in lines}, text


def test_a_machine_alone_is_all_right(capfd):
    code, lines, text = asked(capfd)
    assert (code, text.splitlines()[-1]) == (0, "all right")
    assert "ray 2." in lines["libraries"]
    assert "CPUs" in lines["machine"]
    assert "GiB of memory" in lines["machine"]
    assert lines["cluster"].startswith("ok")
    for subject in ("model", "corpus", "table"):
        assert lines[subject].startswith("skipped")
        assert f"--{subject}" in lines[subject]


def test_model_corpus_and_table_that_can_be_used(tmp_path, capfd):
    corpus, table = tmp_path / "photos", tmp_path / "deep" / "table"
    corpus.mkdir()
    (corpus / "a.jpg").write_bytes(b"1")
    words = ["--model", str(SAMPLE_MODEL), "--corpus", str(corpus), "--table", str(table)]
    code, lines, text = asked(capfd, *words)
    assert code == 0, text
    assert "is whole" in lines["model"]
    assert "stuff" in lines["model"]
    assert "a.jpg" in lines["corpus"]
    assert "can be written, read and deleted from; the first run makes it" in lines["table"]
    assert not table.parent.exists(), "nothing is left"


def test_a_table_that_is_there_is_left_as_it_was(tmp_path, capfd):
    (tmp_path / "_table.json").write_text(json.dumps({"task": "panoptic"}))
    code, lines, _ = asked(capfd, "--table", str(tmp_path))
    assert code == 0
    assert "a panoptic table" in lines["table"]
    assert [path.name for path in tmp_path.rglob("*")] == ["_table.json"]


def test_a_model_that_is_cut_off_is_missing(tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(SAMPLE_MODEL, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, lines, text = asked(capfd, "--model", str(folder))
    assert code == 2
    assert lines["model"].startswith("missing")
    assert "model.safetensors" in lines["model"]
    assert "maskformer zoo" in text
    assert text.splitlines()[-1] == "set right: model"


def test_a_folder_without_images_and_one_that_is_not_there(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("no image")
    code, lines, _ = asked(capfd, "--corpus", str(tmp_path))
    assert code == 2
    assert lines["corpus"].startswith("missing")
    code, lines, _ = asked(capfd, "--corpus", str(tmp_path / "none"))
    assert code == 2
    assert str(tmp_path) in lines["corpus"]


def test_a_store_that_does_not_answer_is_away(monkeypatch, closed_port, capfd):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t-4711")
    words = ["--table=s3://b/t", f"--endpoint_url=http://127.0.0.1:{closed_port}"]
    code, lines, text = asked(capfd, *words)
    assert code == 75
    assert lines["table"].startswith("away")
    assert "--endpoint_url" in text
    assert "4711" not in text
    assert text.splitlines()[-1] == "try again later: table"


def test_a_cluster_that_does_not_answer_is_away(closed_port, capfd):
    code, lines, text = asked(capfd, f"--ray-address=127.0.0.1:{closed_port}")
    assert code == 75
    assert f"nothing listens at 127.0.0.1:{closed_port}" in lines["cluster"]
    assert "ray start --head" in text


def test_a_cluster_that_answers_is_described():
    ray.init(num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        address = ray.get_runtime_context().gcs_address
        command = [sys.executable, "-m", "pipeline.cli", "doctor", f"--ray-address={address}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        ray.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok         cluster: Ray answers at {address}: 1 node, 1 CPU\n" in done.stdout


def test_another_version_of_ray_is_to_be_installed(monkeypatch, capfd):
    def refuse(address: str) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.9.0")

    monkeypatch.setattr("pipeline.cli.doctor._nodes", refuse)
    code, lines, text = asked(capfd, "--ray_address=auto")
    assert code == 2
    assert "Ray: 2.9.0" in lines["cluster"]
    assert "install the cluster's versions" in text


def test_gpus_are_named_and_torch_must_see_them(tmp_path, monkeypatch, capfd):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    code, lines, _ = asked(capfd)
    import torch

    assert "NVIDIA H200, 143771 MiB" in lines["GPUs"]
    if torch.cuda.is_available():
        assert code == 0
    else:
        assert code == 2
        assert "torch cannot use them" in lines["GPUs"]


def test_little_memory_is_missing(monkeypatch, capfd):
    monkeypatch.setattr("pipeline.cli.doctor.memory_bytes", lambda: 2**30)
    code, lines, _ = asked(capfd)
    assert code == 2
    assert lines["machine"].startswith("missing")
    assert "1.0 GiB" in lines["machine"]


def test_a_library_that_is_not_there_is_named_with_what_to_type(monkeypatch, capfd):
    monkeypatch.setattr("pipeline.cli.doctor._LIBRARIES", ("numpy", "no-such-library"))
    code, lines, text = asked(capfd)
    assert code == 2
    assert "there is no no-such-library" in lines["libraries"]
    assert "type: pip install no-such-library" in text
