"""The demo: the whole product in small, on scenes that code draws.

Labels the scenes, shows the table's page, corrects two mistakes through it, trains a second model
on that, compares both models' tables, and exports the table. Each step prints the command that a
person would type, and that command runs in a process of its own.
"""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.demo.browser import NoBrowser, write_screenshot_of_grid
from pipeline.demo.commands import CommandFailed, run_command, run_python, served_page
from pipeline.demo.mistakes import (
    Mistake,
    accepted_state,
    chosen_mistakes,
    corrected_state,
    found_mistakes,
    is_corrected,
)
from pipeline.demo.page_session import PageSession
from pipeline.demo.scenes.shards import write_shards
from pipeline.evaluation.judging import Judge
from pipeline.evaluation.scoring import merge
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.wording import count
from pipeline.table.drawing import contact_sheet, photograph_beside_overlay
from pipeline.table.store import images, segments

SAMPLE_MODEL = Path(__file__).parent / "sample_model"
"""A small MaskFormer, trained on other scenes; its card in this folder says how."""

_SHARD_IMAGES, _SEED, _TRUTH_SEED = 8, 3, 4
_ON_SHEET = 12
_REVIEWER = "demo"
_OURS = (
    "corpus", "truth", "table", "gallery.png", "second_model", "second_table", "comparison", "coco",
    "contact_sheet.png", "picture.jpg", "evaluation",
)  # fmt: skip
_NEXT = """What to type next, with photographs of your own:

    maskformer zoo                         # published models, and what each may be used for
    maskformer label --corpus photos --table labels --model maskformer-swin-tiny-coco-panoptic
    maskformer gallery labels              # look
    maskformer review labels               # correct
    maskformer train --model MODEL --dataset labels --output second
    maskformer evaluate --model second --dataset VALIDATION --task panoptic --output judged"""


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """Numbers of scenes and steps of a demo."""

    num_scenes: int = 24
    """Scenes that are labelled."""
    num_truths: int = 16
    """Other scenes, whose truth the second model learns from beside the corrected ones."""
    num_steps: int = 12
    batch_size: int = 4


def run_demo(folder: Path, *, size: DemoSize | None = None) -> int:
    """Writes the demo below a folder; returns the exit code of the command that failed, or 0.

    Raises:
        ValueError: the folder holds something else than a demo.
    """
    _clear(folder)
    try:
        _Demo(folder, size=size or DemoSize()).run()
    except CommandFailed as failed:
        return failed.exit_code
    return ExitCode.DONE


def write_corpus(folder: Path, *, num_scenes: int = 24) -> None:
    """Writes tar shards of scenes that the sample model has not seen, with their truth."""
    write_shards(str(folder), num_images=num_scenes, seed=_SEED, shard_images=_SHARD_IMAGES)


class _Demo:
    """The steps, in order; each is one plain line of output beside that of its command."""

    def __init__(self, folder: Path, *, size: DemoSize) -> None:
        self._folder, self._size, self._model = folder, size, str(SAMPLE_MODEL)
        self._began = self._step_began = time.monotonic()

    def run(self) -> None:
        self._draw()
        self._label()
        self._show()
        mistakes = self._correct()
        self._train()
        self._compare(mistakes)
        self._export()
        self._end()

    def _at(self, name: str) -> str:
        return str(self._folder / name)

    def _head(self, number: int, title: str) -> None:
        self._step_began = time.monotonic()
        print(f"\n--- {number} of 6: {title}\n", flush=True)

    def _say(self, line: str) -> None:
        """Prints what a step has shown, and the seconds that it took."""
        print(f"\n=> {line} ({time.monotonic() - self._step_began:.0f} s)", flush=True)

    def _draw(self) -> None:
        size = self._size
        write_corpus(Path(self._at("corpus")), num_scenes=size.num_scenes)
        write_shards(self._at("truth"), num_images=size.num_truths, seed=_TRUTH_SEED)
        self._say(
            f"drew {count(size.num_scenes, 'scene')} to label in {self._at('corpus')}, and "
            f"{size.num_truths} with their truth in {self._at('truth')}"
        )

    def _label(self) -> None:
        self._head(1, "label every image of a corpus")
        table = self._at("table")
        run_command("label", "--corpus", self._at("corpus"), "--table", table,
                    "--model", self._model)  # fmt: skip
        print(f"\nthe most frequent labels:\n\n{most_frequent_labels(table)}")
        ids = images(table).to_table(columns=["image_id"])["image_id"].to_pylist()
        shown = ids[:: max(1, len(ids) // _ON_SHEET)][:_ON_SHEET]
        contact_sheet(table, shown).save(self._at("contact_sheet.png"))
        picture = photograph_beside_overlay(table, most_varied_image(table), height=400)
        picture.save(self._at("picture.jpg"), quality=90)
        rows = segments(table).count_rows()
        self._say(
            f"{count(len(ids), 'image')} have {count(rows, 'segment')}: each is a row of "
            f"{table}/segments/*.parquet"
        )

    def _show(self) -> None:
        self._head(2, "look at the table in a browser")
        picture = Path(self._at("gallery.png"))
        with served_page("gallery", self._at("table"), "--no_open", "--port", "0") as address:
            try:
                write_screenshot_of_grid(address, picture)
                shown = f"{picture} is what a browser shows there"
            except NoBrowser as missing:
                shown = f"no screenshot was taken: {missing}"
        self._say(f"the page ran at that address; {shown}")

    def _correct(self) -> list[Mistake]:
        self._head(3, "correct two mistakes on the page")
        table = self._at("table")
        mistakes = chosen_mistakes([*found_mistakes(self._truth(), segments_by_image(table))])
        words = ("review", table, "--reviewer", _REVIEWER, "--no_open", "--port", "0")
        with served_page(*words) as address:
            page = PageSession(address)
            for mistake in mistakes:
                page.save(corrected_state(page.state(mistake.image_id), mistake))
                print(f"{mistake.image_id}: {mistake.correction}")
            for image_id in self._right_images(mistakes):
                page.save(accepted_state(page.state(image_id)))
                print(f"{image_id}: accepted as it is")
        self._say(
            f"{count(len(mistakes), 'correction')} are revisions in {table}/_reviews; the model's "
            "rows stay as they were"
        )
        return mistakes

    def _right_images(self, mistakes: Sequence[Mistake]) -> list[str]:
        """Returns images to accept where there are fewer than two to correct."""
        ids = sorted(
            segments_by_image(self._at("table")).keys() - {each.image_id for each in mistakes}
        )
        return ids[: 2 - len(mistakes)]

    def _train(self) -> None:
        self._head(4, "train a second model on what was corrected, beside scenes with their truth")
        size, output = self._size, self._at("second_model")
        run_command(
            "train", "--model", self._model, "--dataset", self._at("table"), self._at("truth"),
            "--dataset_weights", "0.25", "0.75", "--reviewed", "only", "--output", output,
            "--num_steps", str(size.num_steps), "--batch_size", str(size.batch_size),
            "--learning_rate", "1e-5", "--warmup_steps", "4", "--log_every", "2",
            "--crop", "288", "384", "--pad_to_crop", "--batch_norm", "frozen",
        )  # fmt: skip
        self._say(
            f"{count(size.num_steps, 'step')} of {count(size.batch_size, 'image')}, a quarter of "
            f"them the reviewed ones: {output} serves every command here"
        )

    def _compare(self, mistakes: Sequence[Mistake]) -> None:
        self._head(5, "before and after")
        corpus, table, second = self._at("corpus"), self._at("table"), self._at("second_table")
        run_command("label", "--corpus", corpus, "--table", second,
                    "--model", self._at("second_model"))  # fmt: skip
        run_command("compare", table, second, "--output", self._at("comparison"))
        before, after = (
            panoptic_quality(segments_by_image(each), self._truth()) for each in (table, second)
        )
        rows = segments_by_image(second)
        learnt = sum(is_corrected(each, rows.get(each.image_id, ())) for each in mistakes)
        self._say(
            "panoptic quality by the scenes' truth, as `maskformer evaluate` counts it: "
            f"{before:.1f} before, {after:.1f} after; the second model sees {learnt} of "
            f"{count(len(mistakes), 'correction')} as they were made. A training that changes a "
            f"model takes thousands of steps, not {self._size.num_steps}"
        )

    def _export(self) -> None:
        self._head(6, "hand the table on, corrections included")
        coco = self._at("coco")
        run_command("export", self._at("table"), coco, "--format", "coco_instances")
        file = f"{coco}/annotations/instances_default.json"
        printed = run_python(
            f"from pycocotools.coco import COCO; coco = COCO({json.dumps(file)}); "
            "print(len(coco.imgs), len(coco.anns))"
        )
        num_images, num_segments = map(int, printed.split()[-2:])
        self._say(
            f"pycocotools reads {count(num_images, 'image')} with "
            f"{count(num_segments, 'segment')} from {file}"
        )

    def _end(self) -> None:
        print(f"\nThe demo took {time.monotonic() - self._began:.0f} s. Open\n")
        files = ("picture.jpg", "contact_sheet.png", "gallery.png", "second_model/curves.png",
                 "comparison/report.html")  # fmt: skip
        for file in files:
            if (self._folder / file).exists():
                print(f"    {self._at(file)}")
        print(
            f"\nor the page, to look and to correct:\n\n    maskformer review {self._at('table')}"
        )
        print(f"\n{_NEXT}")

    def _truth(self) -> LabelledImages:
        return open_labelled(DatasetSettings(dataset=self._at("corpus")))


def segments_by_image(table: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Returns the model's segments of each image that has any, by image_id."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in segments(table).to_table().to_pylist():
        found[row["image_id"]].append(row)
    return found


def panoptic_quality(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], truth: LabelledImages
) -> float:
    """Returns the panoptic quality of a table's segments, by image_id, in percent."""
    same_labels = tuple(range(len(truth.labels.names)))
    judge = Judge(task="panoptic", labels=truth.labels, data_label_of=same_labels)
    total = judge.metric()
    for index in range(len(truth)):
        found = rows.get(truth.image_id(index), ())
        merge(total, judge.judged(found, truth.target(index), index=index))
    return 100 * float(total.compute()["pq"])


def most_varied_image(table: str) -> str:
    """Returns the image with the most labels, of these the one with the highest scores."""
    rows = segments(table).to_table(columns=["image_id", "label", "score"])
    of_image = rows.group_by("image_id").aggregate([("label", "count_distinct"), ("score", "mean")])
    ordered = of_image.sort_by(
        [("label_count_distinct", "descending"), ("score_mean", "descending")]
    )
    image_id: str = ordered["image_id"][0].as_py()
    return image_id


def most_frequent_labels(table: str) -> str:
    """Lists the ten labels with the most segments: segments, share of all pixels, mean score."""
    rows = segments(table).to_table(columns=["label", "area", "score"])
    counted = (
        rows.group_by("label")
        .aggregate([("area", "count"), ("area", "sum"), ("score", "mean")])
        .sort_by([("area_count", "descending"), ("label", "ascending")])
        .slice(0, 10)
    )
    total = pc.sum(rows["area"]).as_py() or 1
    lines = [f"{'label':<16}{'segments':>9}{'area':>8}{'score':>8}"]
    for row in counted.to_pylist():
        share = row["area_sum"] / total
        lines.append(
            f"{row['label']:<16}{row['area_count']:>9,}{share:>8.1%}{row['score_mean']:>8.2f}"
        )
    return "\n".join(lines)


def _clear(folder: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - {*_OURS}
    ):
        raise ValueError(f"--output must be a folder for the demo alone; {folder} holds more")
    shutil.rmtree(folder, ignore_errors=True)
