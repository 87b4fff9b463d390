"""A model that was found to be sound is not checked again; any other is."""

import pytest

from pipeline.labelling import checked_models
from pipeline.labelling.checked_models import check_once


@pytest.fixture
def checks(tmp_path, monkeypatch):
    """Counts the checks of models by fingerprint."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done: list[str] = []

    def check(fingerprint: str, *, is_sound: bool = True) -> None:
        def look() -> None:
            done.append(fingerprint)
            if not is_sound:
                raise ValueError("the weights are another model's")

        check_once(fingerprint, check=look)

    check.done = done  # type: ignore[attr-defined]
    return check


def test_a_known_model_is_not_checked_again(checks):
    for fingerprint in ("a", "a", "b", "a"):
        checks(fingerprint)
    assert checks.done == ["a", "b"]


def test_a_model_that_failed_is_checked_again(checks):
    for _ in range(2):
        with pytest.raises(ValueError, match="another model's"):
            checks("a", is_sound=False)
    assert checks.done == ["a", "a"]


def test_other_code_checks_again(checks, monkeypatch):
    checks("a")
    monkeypatch.setattr(checked_models, "_code_fingerprint", lambda: "newer")
    checks("a")
    assert checks.done == ["a", "a"]


def test_a_cache_that_cannot_be_written_costs_a_check_each_time(checks, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder would be")
    checks("a")
    checks("a")
    assert checks.done == ["a", "a"]
