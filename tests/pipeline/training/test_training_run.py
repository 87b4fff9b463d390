"""What ends a training early is one line and the right exit code."""

import io

import pytest

import pipeline.training.run
from pipeline.labelling.report import ExitCode
from pipeline.runtime.settings import parse
from pipeline.storage import StorageFault
from pipeline.training.announcer import Announcer
from pipeline.training.run import finetune
from pipeline.training.settings import PARTS


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (IsADirectoryError(21, "Is a directory"), ExitCode.WRONG_USAGE),
        (ConnectionResetError(), ExitCode.TRY_AGAIN),
    ],
)
def test_only_a_fault_that_may_pass_asks_to_run_again(monkeypatch, cause, code):
    def fail(*_: object, **__: object) -> int:
        raise StorageFault("read s3://b/x") from cause

    monkeypatch.setattr(pipeline.training.run, "_finetune", fail)
    words = ["--model=m", "--dataset=d", "--output=o"]
    settings, printed = parse(PARTS, arguments=words, description=""), io.StringIO()
    assert finetune(settings, announcer=Announcer(output=printed)) == code
    said = printed.getvalue()
    assert said.count("\n") == 1
    assert ("run the same command again" in said) == (code == ExitCode.TRY_AGAIN)
