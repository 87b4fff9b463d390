"""Reviews in exports: laid over the model's segments, taken alone, or ignored."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_tables import Drawn, draw, exported, photo

from maskformer import encode_mask
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.model_rows import model_state
from pipeline.reviews.revision import Status
from pipeline.runtime.exit_codes import ExitCode

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A table of which five images are reviewed."""
    drawn = draw(tmp_path_factory.mktemp("drawn"))
    log = ReviewLog.of_table(drawn.table.uri, reviews=None, storage=drawn.table.storage)
    review(log, drawn, "a.png", status="accepted")
    review(log, drawn, "turned.png", status="unusable")
    review(log, drawn, "key/0", status="flagged")
    stale = model_state(drawn.table, "plain.jpg")
    log.append(
        replace(stale, etag="of another photograph").revision(
            status="corrected", reviewer="A", created_at=AT, tool="test", segments=()
        )
    )
    state = model_state(drawn.table, "a.jpg")
    first = state.segments[0]
    mask = np.zeros((state.height, state.width), bool)
    mask[:5, :7] = True
    drawn_by_hand = replace(
        first, label="tree", label_id=4, score=None, origin="human", rle=encode_mask(mask),
        area=35, bbox_x=0, bbox_y=0, bbox_w=7, bbox_h=5,
    )  # fmt: skip
    log.append(
        state.revision(
            status="corrected", reviewer="A", created_at=AT, tool="test",
            segments=(drawn_by_hand,),
        )
    )  # fmt: skip
    return drawn


def review(log: ReviewLog, drawn: Drawn, image_id: str, *, status: Status) -> None:
    state = model_state(drawn.table, image_id)
    log.append(state.revision(status=status, reviewer="A", created_at=AT, tool="test"))


def annotations(folder: Path) -> Mapping[str, list[dict[str, Any]]]:
    content = json.loads((folder / "annotations/instances_default.json").read_bytes())
    names = {each["id"]: each["table_image_id"] for each in content["images"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for each in content["annotations"]:
        found[names[each["image_id"]]].append(each)
    return found


def whole(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "export.json").read_bytes())


def test_the_newest_review_is_laid_over_the_model(drawn: Drawn, tmp_path: Path) -> None:
    assert exported(drawn, tmp_path, "coco_instances") == ExitCode.DONE
    found = annotations(tmp_path)
    assert {*drawn.truth} - {*found} == {"turned.png"}
    (changed,) = found["a.jpg"]
    assert (changed["category_id"], changed["area"], changed["origin"]) == (5, 35, "human")
    assert "score" not in changed
    assert len(found["a.png"]) == len(drawn.truth["a.png"])
    assert len(found["plain.jpg"]) == len(drawn.truth["plain.jpg"]), "a stale review is not laid"
    counts = whole(tmp_path)["counts"]
    assert counts["left_out"] == {"reviewed as unusable": 1}
    assert counts["images_reviewed"] == 3


def test_reviewed_images_alone(drawn: Drawn, tmp_path: Path) -> None:
    assert exported(drawn, tmp_path, "coco_instances", reviewed="only") == ExitCode.DONE
    assert {*annotations(tmp_path)} == {"a.jpg", "a.png"}
    assert whole(tmp_path)["counts"]["left_out"] == {
        "reviewed as another photograph": 1,
        "reviewed as unusable": 1,
        "without a review that was accepted or corrected": len(drawn.truth) - 4,
    }


def test_reviews_that_are_ignored(drawn: Drawn, tmp_path: Path) -> None:
    assert exported(drawn, tmp_path, "coco_instances", reviewed="ignore") == ExitCode.DONE
    found = annotations(tmp_path)
    assert {name: len(each) for name, each in found.items()} == {
        name: len(each) for name, each in drawn.truth.items()
    }


def test_what_a_person_drew_has_no_score_and_meets_the_other_conditions(
    drawn: Drawn, tmp_path: Path
) -> None:
    exported(drawn, tmp_path / "a", "coco_instances", min_score=0.99)
    assert [len(each) for each in annotations(tmp_path / "a").values() if each] == [1]
    exported(drawn, tmp_path / "b", "coco_instances", where="origin = 'human'")
    assert sum(map(len, annotations(tmp_path / "b").values())) == 1


@pytest.mark.parametrize("format", ["coco_panoptic", "label_maps", "yolo", "hf", "webdataset"])
def test_every_format_takes_reviewed_segments(drawn: Drawn, tmp_path: Path, format: str) -> None:
    assert exported(drawn, tmp_path, format, reviewed="only") == ExitCode.DONE
    assert whole(tmp_path)["counts"]["segments"] == 1 + len(drawn.truth["a.png"])


def test_an_export_without_any_image_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = draw(tmp_path, files={"a.jpg": photo(1)})
    for format in ("coco_instances", "hf", "webdataset"):
        code = exported(drawn, tmp_path / format, format, reviewed="only")
        assert code == ExitCode.DONE_WITH_ERRORS
        assert "no image is in the export" in capsys.readouterr().err
        assert exported(drawn, tmp_path / format, format, reviewed="only") == code


def test_a_new_review_makes_it_another_export(tmp_path: Path) -> None:
    drawn = draw(tmp_path)
    exported(drawn, tmp_path / "out", "yolo")
    log = ReviewLog.of_table(drawn.table.uri, reviews=None, storage=drawn.table.storage)
    review(log, drawn, "a.png", status="accepted")
    with pytest.raises(ValueError, match=r"another export: state\.reviews is"):
        exported(drawn, tmp_path / "out", "yolo")
