"""Completion: what bash offers after the script was evaluated."""

import shutil
import subprocess

import pytest

from pipeline.cli.completion import SHELLS, completion_script

PROGRAM = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
$(complete -p maskformer | sed 's/.*-F \\([^ ]*\\).*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "maskformer.bash"
    path.write_text(completion_script("bash"))
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["la"], {"label"}),
        (["label", "--tas"], {"--task"}),
        (["label", "--task", ""], {"panoptic", "instance", "semantic"}),
        (["train", "--recipe", "swin-t"], {"swin-tiny-ade20k", "swin-tiny-coco-panoptic"}),
        (["evaluate", "--dataset_kind", "coco"], {"coco_panoptic", "coco_instances"}),
        (["doctor", "--corp"], {"--corpus"}),
        (["nightly", "--secr"], {""}),  # no secret belongs on the command line
        (["--vers"], {"--version"}),
    ],
)
def test_bash_offers_commands_options_and_choices(script, words, offered):
    done = subprocess.run(
        ["bash", "-c", PROGRAM, "bash", str(script), "maskformer", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(done.stdout.rstrip("\n").split("\n")) == offered
    assert done.stderr == ""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_offers_files_where_a_path_is_meant(script, tmp_path):
    (tmp_path / "photos").mkdir()
    words = ["maskformer", "label", "--corpus", f"{tmp_path}/pho"]
    done = subprocess.run(
        ["bash", "-c", PROGRAM, "bash", str(script), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"{tmp_path}/photos"


@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_script_for_each_shell(shell):
    assert "label_ids_to_fuse" in completion_script(shell)
