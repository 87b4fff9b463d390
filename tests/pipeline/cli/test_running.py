"""Commands from their words to an exit code: one line for what is wrong, and the right code."""

import io
import sys
from pathlib import Path

import pytest

import pipeline.evaluation.run
import pipeline.labelling.run
import pipeline.training.run
from maskformer import MODELS
from pipeline.cli.__main__ import main
from pipeline.cli.commands import COMMANDS
from pipeline.cli.running import read_settings, run_job
from pipeline.runtime.exit_codes import ExitCode, TryAgain
from pipeline.runtime.settings import WrongUsage
from pipeline.storage import SourceChanged, StorageFault
from pipeline.training.settings import ValidationSettings

JOBS = {
    "label": (
        pipeline.labelling.run, "label", ["--corpus=c", "--table=t", "--model=m", "--local=false"],
    ),
    "evaluate": (
        pipeline.evaluation.run, "_evaluate",
        ["--model=m", "--dataset=d", "--task=semantic", "--output=o"],
    ),
    "train": (pipeline.training.run, "_finetune", ["--model=m", "--dataset=d", "--output=o"]),
}  # fmt: skip


def ended_by(name: str, error: BaseException, monkeypatch, capfd) -> tuple[int, str]:
    """Exit code and stderr of a job whose work raises the error."""
    module, inner, words = JOBS[name]

    def fail(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(module, inner, fail)
    code = run_job(name, words)
    return code, capfd.readouterr().err


def fault(cause: BaseException) -> StorageFault:
    error = StorageFault("read s3://b/x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (IsADirectoryError(21, "Is a directory"), ExitCode.WRONG_USAGE),
        (ConnectionResetError(), ExitCode.TRY_AGAIN),
    ],
)
def test_only_a_fault_that_may_pass_asks_to_run_again(name, cause, code, monkeypatch, capfd):
    ended, said = ended_by(name, fault(cause), monkeypatch, capfd)
    assert ended == code
    assert said.count("\n") == 1
    assert said.startswith(f"maskformer {name}: read s3://b/x")
    assert ("run the same command again" in said) == (code == ExitCode.TRY_AGAIN)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (WrongUsage("no such corpus"), 2, "no such corpus"),
        (TryAgain("another run is at work"), 75, "another run is at work"),
        (SourceChanged("a.tar changed"), 75, "a.tar changed; run the same command again"),
        (ConnectionError("no Ray cluster"), 75, "no Ray cluster; run the same command again"),
        (KeyboardInterrupt(), 75, "stopped; "),
        (ModuleNotFoundError(name="timm.models"), 2, "the package timm is missing; pip install"),
    ],
)
def test_what_ends_a_run_early_is_one_line_and_a_code(name, error, code, words, monkeypatch, capfd):
    ended, said = ended_by(name, error, monkeypatch, capfd)
    assert (ended, said.count("\n")) == (code, 1)
    assert words in said


def test_a_bug_is_no_wrong_usage(monkeypatch, capfd):
    with pytest.raises(ValueError, match="a bug"):
        ended_by("label", ValueError("a bug"), monkeypatch, capfd)
    with pytest.raises(ModuleNotFoundError):
        ended_by("label", ModuleNotFoundError(name="pipeline.gone"), monkeypatch, capfd)
    for name in ("evaluate", "train"):
        # Faults in data are raised as ValueError there.
        assert ended_by(name, ValueError("bad\n  data"), monkeypatch, capfd) == (
            2, f"maskformer {name}: bad data\n",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["label", "--tresh=1"], "maskformer label: there is no setting --tresh; did you mean"),
        (["label", "--corpus=c"], "maskformer label: --table, --model must be given"),
        (["train", "--recip=x"], "did you mean --recipe?"),
        (["nightly", "--help_al"], "did you mean --help_all?"),
        (["label", "photos"], "before photos, to which it belongs; did you mean --corpus photos?"),
        (["verify"], "verify: TABLE must be given"),
        (["verify", "a", "b"], "no option stands before b"),
        (["lable"], "maskformer: there is no command lable; did you mean label?"),
        (["xyz"], "maskformer: there is no command xyz; see maskformer --help"),
        (["--completion", "fish"], "--completion must be bash, zsh, tcsh, got 'fish'"),
        (["convert", "a", "b", "--name=x", "--config=y"], "--name and --config exclude each other"),
        (["submit", "--submission_id=x"], "give the command after --"),
        (["train", "--recipe"], "--recipe needs a value"),
    ],
)
def test_wrong_usage_is_one_line_with_a_way_out(words, said, capfd):
    assert main(words) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("recipe", sorted(MODELS))
def test_a_recipe_needs_no_validation(recipe):
    words = ["--recipe", recipe, "--dataset", "data", "--output", "model"]
    assert read_settings(COMMANDS["train"], words).of(ValidationSettings).validation is None


def test_names_take_hyphens_and_underscores(capfd):
    outputs = []
    for words in (["--batch-size=3", "--num-steps", "5"], ["--batch_size=3", "--num_steps", "5"]):
        assert main(["train", "--print-config", *words]) == 0
        outputs.append(capfd.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "batch_size: 3\n" in outputs[0]
    assert "num_steps: 5\n" in outputs[0]


@pytest.mark.parametrize("words", [["--version"], ["label", "--version"]])
def test_the_version_is_told(words, capfd):
    assert main(words) == 0
    assert capfd.readouterr().out.startswith("maskformer-pipeline ")


def test_a_reader_that_leaves_early_is_no_error(monkeypatch):
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return copy.fileno()

    with open("/dev/null", "w") as copy:
        monkeypatch.setattr(sys, "stdout", Pipe())
        assert main(["label", "--help_all"]) == 0


def test_each_command_names_what_there_is():
    for command in COMMANDS.values():
        assert callable(command.function()), command.name


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("segment_corpus", "label"), ("label_nightly", "nightly"), ("evaluate", "evaluate"),
        ("finetune", "train"), ("submit", "submit"), ("demo", "demo"),
    ],
)  # fmt: skip
def test_a_job_is_a_door_to_the_command_of_the_same_flags(job, command, monkeypatch, capfd):
    module = __import__(f"jobs.{job}", fromlist=["main"])
    helps = []
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "--help_all"])
    assert module.main() == 0
    helps.append(capfd.readouterr().out.replace(f"jobs/{job}.py", "PROG"))
    assert main([command, "--help_all"]) == 0
    helps.append(capfd.readouterr().out.replace(f"maskformer {command}", "PROG"))
    unwrapped = [" ".join(text.split()) for text in helps]
    assert unwrapped[0] == unwrapped[1]
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "--no_such_setting"])
    assert module.main() == 2
    assert capfd.readouterr().err.startswith(f"{job}: there is no setting --no_such_setting")
    assert len(Path(str(module.__file__)).read_text().splitlines()) <= 30
