"""What ends an evaluation early is one line and the right exit code."""

import pytest

import pipeline.evaluation.run
from pipeline.evaluation.run import evaluate
from pipeline.evaluation.settings import PARTS
from pipeline.labelling.report import ExitCode
from pipeline.runtime.settings import parse
from pipeline.storage import StorageFault


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (IsADirectoryError(21, "Is a directory"), ExitCode.WRONG_USAGE),
        (ConnectionResetError(), ExitCode.TRY_AGAIN),
    ],
)
def test_only_a_fault_that_may_pass_asks_to_run_again(capsys, monkeypatch, cause, code):
    def fail(_: object) -> int:
        raise StorageFault("read s3://b/x") from cause

    monkeypatch.setattr(pipeline.evaluation.run, "_evaluate", fail)
    words = ["--model=m", "--dataset=d", "--task=semantic", "--output=o"]
    assert evaluate(parse(PARTS, arguments=words, description="")) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("run the same command again" in said) == (code == ExitCode.TRY_AGAIN)
