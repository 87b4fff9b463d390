"""The commands that have no folder of their own: zoo, convert, and what the demo refuses."""

import shutil

import pytest

from maskformer import MODELS
from pipeline.cli.__main__ import main
from pipeline.demo.demo import SAMPLE_MODEL


def test_the_zoo_lists_each_model(capfd):
    assert main(["zoo"]) == 0
    printed = capfd.readouterr().out
    for name in MODELS:
        assert f"\n{name} " in printed
    assert "not for commercial use" in printed


def test_weights_are_converted(tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["convert", str(SAMPLE_MODEL), str(out), "--dtype", "float16"]) == 0
    assert capfd.readouterr().out == f"wrote {out}\n"
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        path.name for path in out.iterdir()
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config={there}/no.json"], "no.json"),
        (["--name=maskformer-resnet5-ade"], "near: maskformer-resnet50-ade20k"),
        (["--dtype=int8"], "dtype must be 'auto' or 'float32' or 'bfloat16' or 'float16'"),
    ],
)
def test_what_cannot_be_converted_is_one_line(tmp_path, words, said, capfd):
    source = tmp_path / "weights"
    shutil.copytree(SAMPLE_MODEL, source)
    words = [word.format(there=tmp_path) for word in words]
    assert main(["convert", str(source), str(tmp_path / "out"), *words]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("maskformer convert: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_the_demo_replaces_nothing_but_a_demo(tmp_path, capfd):
    (tmp_path / "thesis.txt").write_text("my only copy")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert f"{tmp_path} holds more" in line
    assert (tmp_path / "thesis.txt").read_text() == "my only copy"
    assert main(["demo", "--output", str(tmp_path / "thesis.txt")]) == 2
