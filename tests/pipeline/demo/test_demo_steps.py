"""The demo's steps without its commands: mistakes, their corrections, and what may be missing."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskformer import decode_rle, encode_mask
from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.target import Labels, Target, TrueSegment
from pipeline.demo import demo
from pipeline.demo.browser import NoBrowser, opened_browser
from pipeline.demo.commands import CommandFailed, run_command, run_python, served_page
from pipeline.demo.mistakes import (
    Mistake,
    accepted_state,
    chosen_mistakes,
    corrected_state,
    found_mistakes,
    is_corrected,
)

SIZE = (12, 16)
LABELS = Labels(names=("sky", "car", "boat"), things=frozenset({1, 2}))
SKY, LEFT, RIGHT = np.zeros((3, *SIZE), bool)
LEFT[6:, :5] = True
RIGHT[9:, 14:] = True
SKY[:6] = True


class OneScene:
    """A data set of one scene: sky, a car on the left, a boat on the right."""

    labels = LABELS

    def __len__(self) -> int:
        return 1

    def image_id(self, index: int) -> str:
        return "a"

    def target(self, index: int) -> Target:
        ids = np.select([SKY, LEFT, RIGHT], [1, 2, 3], 0)
        segments = tuple(TrueSegment(id=n + 1, label_id=n) for n in range(3))
        return Target(ids=ids, segments=segments)


def row(segment_id: int, label: str, mask: np.ndarray) -> dict[str, Any]:
    return {"segment_id": segment_id, "label": label, "rle": encode_mask(mask),
            "height": SIZE[0], "width": SIZE[1]}  # fmt: skip


def mistakes_of(*rows: dict[str, Any]) -> list[Mistake]:
    truth: LabelledImages = OneScene()  # type: ignore[assignment]
    return [*found_mistakes(truth, {"a": rows})]


def state(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": "a", "revision": 0, "height": SIZE[0], "width": SIZE[1],
            "segments": [*rows]}  # fmt: skip


def test_a_wrong_label_and_a_missed_thing_are_mistakes_and_right_segments_are_none() -> None:
    wrong, missed = mistakes_of(row(1, "sky", SKY), row(2, "boat", LEFT))
    assert (wrong.segment_id, wrong.wrong_label, wrong.label) == (2, "boat", "car")
    assert (missed.segment_id, missed.label, missed.area) == (None, "boat", RIGHT.sum())
    assert mistakes_of(row(1, "sky", SKY), row(2, "car", LEFT), row(3, "boat", RIGHT)) == []
    assert len(mistakes_of()) == 2


def test_a_wrong_label_is_replaced_and_a_missed_thing_is_painted_over_what_was_there() -> None:
    ground = ~SKY & ~LEFT
    rows = row(1, "sky", SKY), row(2, "boat", LEFT), row(3, "sky", ground)
    wrong, missed = mistakes_of(*rows)
    relabelled = corrected_state(state(*rows), wrong)
    assert [each["label"] for each in relabelled["segments"]] == ["sky", "car", "sky"]
    assert relabelled["operations"][0]["kind"] == "relabel"
    painted = corrected_state(state(*rows), missed)
    masks = [decode_rle(each["rle"], height=12, width=16) for each in painted["segments"]]
    assert np.array_equal(masks[3], RIGHT)
    assert np.array_equal(masks[2], ground & ~RIGHT)
    assert sum(mask.astype(int) for mask in masks).max() == 1
    assert not is_corrected(wrong, rows)
    assert is_corrected(wrong, [*relabelled["segments"][:1], row(2, "car", LEFT)])
    assert accepted_state(state(*rows))["segments"] == [*rows]


def test_the_largest_mistakes_of_both_kinds_are_chosen_in_two_images() -> None:
    def mistake(image_id: str, segment_id: int | None, area: int) -> Mistake:
        mask = np.arange(200).reshape(10, 20) < area
        return Mistake(image_id=image_id, label="car", segment_id=segment_id, wrong_label=None,
                       mask=mask)  # fmt: skip

    wrong = mistake("a", 1, 30), mistake("b", 2, 20)
    missed = mistake("a", None, 90), mistake("c", None, 50)
    assert chosen_mistakes([*missed, *wrong]) == [wrong[0], missed[1]]
    assert chosen_mistakes(missed) == [*missed]
    assert chosen_mistakes(wrong) == [*wrong]
    assert chosen_mistakes([]) == []


def test_a_command_that_fails_ends_the_demo_with_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandFailed) as failed:
        run_command("verify", str(tmp_path / "no table"))
    assert failed.value.exit_code == 2
    with pytest.raises(CommandFailed), served_page("gallery", str(tmp_path), "--no_open"):
        pass
    with pytest.raises(CommandFailed):
        run_python("raise SystemExit(3)")
    printed = capfd.readouterr()
    assert f"$ maskformer verify '{tmp_path}/no table'\n" in printed.out
    assert "maskformer gallery: " in printed.err


def test_the_exit_code_of_a_command_is_that_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: str) -> float:
        raise CommandFailed(75)

    monkeypatch.setattr(demo, "run_command", fail)
    size = demo.DemoSize(num_scenes=1, num_truths=1)
    assert demo.run_demo(tmp_path / "demo", size=size) == 75
    assert demo.run_demo(tmp_path / "demo", size=size) == 75  # an interrupted demo begins again


def test_without_playwright_a_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(NoBrowser, match="pip install playwright"), opened_browser():
        pass
