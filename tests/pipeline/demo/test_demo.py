"""The demo, run once with few scenes: each of its steps leaves what it says."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskformer import MaskFormerForInstanceSegmentation
from pipeline.demo.demo import most_varied_image, segments_by_image
from pipeline.reviews.log import ReviewLog
from pipeline.storage import Storage
from pipeline.table.store import images

ROOT = Path(__file__).parents[3]
NUM_SCENES = 4
_RUN = f"""
import sys
from pathlib import Path
from pipeline.demo.demo import DemoSize, run_demo
sys.exit(run_demo(Path(sys.argv[1]), size=DemoSize(
    num_scenes={NUM_SCENES}, num_truths=4, num_steps=1, batch_size=4)))
"""


@dataclass(frozen=True)
class RunDemo:
    """A folder, and what the demo printed."""

    folder: Path
    printed: str

    def at(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> RunDemo:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    ended = subprocess.run(
        [sys.executable, "-c", _RUN, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return RunDemo(folder, ended.stdout)


def test_each_step_prints_its_command_and_one_line_of_what_it_has_shown(demo: RunDemo) -> None:
    assert re.findall(r"^\$ maskformer (\w+)", demo.printed, re.MULTILINE) == [
        "label", "gallery", "review", "train", "label", "compare", "export",
    ]  # fmt: skip
    assert len(re.findall(r"^--- \d of 6: ", demo.printed, re.MULTILINE)) == 6
    # One for each step, and one for the drawing before them.
    assert len(re.findall(r"^=> .* \(\d+ s\)$", demo.printed, re.MULTILINE)) == 7


def test_it_ends_with_what_to_open_and_what_to_type_next(demo: RunDemo) -> None:
    ending = demo.printed.partition("The demo took")[2]
    files = re.findall(r"^    (/\S+)$", ending, re.MULTILINE)
    has_screenshot = "no screenshot was taken" not in demo.printed
    assert (demo.at("gallery.png") in files) == has_screenshot
    assert len(files) == 4 + has_screenshot
    assert [file for file in files if not Path(file).exists()] == []
    assert "maskformer label --corpus photos" in ending


def test_every_scene_is_labelled_by_both_models(demo: RunDemo) -> None:
    for table in ("table", "second_table"):
        rows = images(demo.at(table)).to_table(columns=["status"])["status"].to_pylist()
        assert rows == ["ok"] * NUM_SCENES


def test_a_screenshot_is_written_or_what_is_missing_is_said(demo: RunDemo) -> None:
    assert "the page is at http://127.0.0.1:" in demo.printed
    if "no screenshot was taken" in demo.printed:
        assert not Path(demo.at("gallery.png")).exists()
    else:
        assert Image.open(demo.at("gallery.png")).size == (1400, 860)


def test_two_images_are_reviewed_beside_rows_that_stay(demo: RunDemo) -> None:
    log = ReviewLog.of_table(demo.at("table"), reviews=None, storage=Storage())
    rows = segments_by_image(demo.at("table"))
    newest = [each for image_id in rows if (each := log.latest(image_id)) is not None]
    assert [each.status for each in newest] == ["corrected", "corrected"]
    assert {each.reviewer for each in newest} == {"demo"}
    for each in newest:
        before = {(row["label"], row["rle"]) for row in rows[each.image_id]}
        assert {(segment.label, segment.rle) for segment in each.segments} - before


def test_the_second_model_has_learnt_from_the_reviewed_images(demo: RunDemo) -> None:
    [learnt] = json.loads(Path(demo.at("second_model/revisions.json")).read_text()).values()
    log = ReviewLog.of_table(demo.at("table"), reviews=None, storage=Storage())
    assert learnt
    assert {
        image_id for image_id in segments_by_image(demo.at("table")) if log.latest(image_id)
    } == {*learnt}
    MaskFormerForInstanceSegmentation.from_pretrained(demo.at("second_model"))
    assert re.search(r"panoptic quality by .*: \d+\.\d before, \d+\.\d after", demo.printed)
    assert Path(demo.at("comparison/report.html")).stat().st_size > 1000


def test_pycocotools_loads_the_export_with_the_corrections(demo: RunDemo) -> None:
    exported = COCO(demo.at("coco/annotations/instances_default.json"))
    assert len(exported.imgs) == NUM_SCENES
    corrected = demo.printed.count("without a segment is painted")
    assert (
        len(exported.anns)
        <= sum(map(len, segments_by_image(demo.at("table")).values())) + corrected
    )


def test_the_most_varied_image_is_shown(demo: RunDemo) -> None:
    rows = segments_by_image(demo.at("table"))
    most = max(len({row["label"] for row in each}) for each in rows.values())
    shown = rows[most_varied_image(demo.at("table"))]
    assert len({row["label"] for row in shown}) == most
    assert Image.open(demo.at("picture.jpg")).height == 400
