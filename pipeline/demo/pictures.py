"""Makes every picture that the READMEs show, from the folder of a demo.

    python -m pipeline.demo.pictures DEMO_FOLDER OUTPUT_FOLDER

In a checkout OUTPUT_FOLDER is `pipeline/demo`. Needs playwright and Chromium, and labels the demo's
scenes again, in two nights, for the report of a night.
"""

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from pipeline.demo.browser import SIZE, NoBrowser, opened_browser, wait_for_grid
from pipeline.demo.commands import CommandFailed, run_command, served_page
from pipeline.demo.demo import SAMPLE_MODEL, most_varied_image
from pipeline.runtime.exit_codes import ExitCode
from pipeline.table.drawing import photograph_beside_overlay
from pipeline.table.store import images, segments
from pipeline.training.curves import curves

MOST_BYTES = 150_000
"""A README loads in no time."""
_SCHEMES = ("light", "dark")
_IN_A_BROWSER = ("gallery", "review", "report")
PICTURES = (
    "picture.jpg", "curves.png",
    *(f"{name}-{scheme}.webp" for name in _IN_A_BROWSER for scheme in _SCHEMES),
)  # fmt: skip
"""The files that are made."""

_SOME_REVIEWED = re.compile(r"^[1-9]\d* of ")
_REPORT_SIZE = {"width": 820, "height": 1180}
_PICTURE_HEIGHT = 400
_ATTEMPTS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 wrong usage, else that of a command that failed."""
    given = _parser().parse_args(arguments)
    if not (given.demo / "table" / "_table.json").exists():
        print(f"pictures: {given.demo} is no folder of `maskformer demo`", file=sys.stderr)
        return ExitCode.WRONG_USAGE
    given.output.mkdir(parents=True, exist_ok=True)
    try:
        write_still_pictures(given.demo, given.output, history=given.history)
        write_screenshots(given.demo, given.output)
    except NoBrowser as missing:
        print(f"pictures: {missing}", file=sys.stderr)
        return ExitCode.WRONG_USAGE
    except CommandFailed as failed:
        return failed.exit_code
    for name in PICTURES:
        print(given.output / name)
    return ExitCode.DONE


def write_still_pictures(demo: Path, output: Path, *, history: Path | None = None) -> None:
    """Writes a scene beside its segments, and the curves of a training.

    Args:
        history: the metrics.jsonl of another training than the demo's.
    """
    table = str(demo / "table")
    picture = photograph_beside_overlay(table, most_varied_image(table), height=_PICTURE_HEIGHT)
    picture.save(output / "picture.jpg", quality=85, optimize=True, progressive=True)
    lines = (history or demo / "second_model" / "metrics.jsonl").read_text().splitlines()
    chart = curves([json.loads(line) for line in lines])
    chart.quantize(64).save(output / "curves.png", optimize=True)


def write_screenshots(demo: Path, output: Path) -> None:
    """Writes the gallery, an image under review and the report of a night, in light and dark.

    Raises:
        NoBrowser: there is no browser.
        CommandFailed: a command failed.
    """
    table = str(demo / "table")
    with tempfile.TemporaryDirectory() as folder:
        report = _report_of_two_nights(demo / "corpus", Path(folder))
        with opened_browser() as browser:
            with served_page("gallery", table, "--no_open", "--port", "0") as address:
                page = browser.new_page(viewport=SIZE)
                page.goto(address)
                wait_for_grid(page)
                page.get_by_text(_SOME_REVIEWED).wait_for()
                page.wait_for_load_state("networkidle")
                _write_both(page, output, "gallery")
            with served_page("review", table, "--no_open", "--port", "0") as address:
                page = browser.new_page(viewport=SIZE)
                _select_segment(page, address, table=table)
                _write_both(page, output, "review")
            page = browser.new_page(viewport=_REPORT_SIZE)
            _show_report(page, report)
            _write_both(page, output, "report")


def _show_report(page: Any, report: Path) -> None:
    """Opens a report, in a window that ends with its table of labels."""
    page.goto(report.as_uri())
    below = page.get_by_role("heading", name="Scores and coverage").bounding_box()
    page.set_viewport_size({**_REPORT_SIZE, "height": int(below["y"]) - 12})


def _select_segment(page: Any, address: str, *, table: str) -> None:
    """Opens an image on the review page, and selects its largest thing."""
    page.goto(address)
    wait_for_grid(page)
    image_id = most_varied_image(table)
    names = sorted(images(table).to_table(columns=["image_id"])["image_id"].to_pylist())
    route = urlencode({"image_id": image_id, "at": names.index(image_id)})
    page.evaluate("hash => { location.hash = hash; }", f"image?{route}")
    chosen = page.locator(f"#legend [data-segment='{_largest_thing(table, image_id)}']")
    chosen.wait_for()
    page.locator("#loading").wait_for(state="hidden")
    chosen.click()
    page.wait_for_load_state("networkidle")


def _largest_thing(table: str, image_id: str) -> int:
    columns = ["image_id", "segment_id", "is_thing", "area"]
    rows = segments(table).to_table(columns=columns).to_pylist()
    things = [row for row in rows if row["image_id"] == image_id and row["is_thing"]]
    segment_id: int = max(things, key=lambda row: row["area"])["segment_id"]
    return segment_id


def _report_of_two_nights(corpus: Path, folder: Path) -> Path:
    """Labels a corpus that grows by its last shard in the second night; returns its report."""
    *old, new = sorted(corpus.glob("*.tar"))
    (folder / "corpus").mkdir()
    nights: Mapping[str, Sequence[Path]] = {"first": old, "second": [new]}
    for shards in nights.values():
        for shard in shards:
            shutil.copy2(shard, folder / "corpus")
        _run_night(folder)
    return max((folder / "table" / "_runs").glob("*/report.html"), key=lambda file: file.parent)


def _run_night(folder: Path) -> None:
    words = ("nightly", "--corpus", str(folder / "corpus"), "--table", str(folder / "table"),
             "--model", str(SAMPLE_MODEL), "--settle_minutes", "0")  # fmt: skip
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            run_command(*words)
            return
        except CommandFailed as failed:
            # On a busy machine Ray may not start in time.
            if failed.exit_code != ExitCode.TRY_AGAIN or attempt == _ATTEMPTS:
                raise


def _write_both(page: Any, output: Path, name: str) -> None:
    for scheme in _SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        _write_small(picture, output / f"{name}-{scheme}.webp")
    page.close()


def _write_small(picture: Image.Image, file: Path) -> None:
    """Writes a picture in the highest quality with which it is small enough."""
    for quality in (90, 80, 70, 60, 50, 40):
        picture.save(file, quality=quality, method=6)
        if file.stat().st_size < MOST_BYTES:
            return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.pictures", description=__doc__)
    parser.add_argument("demo", metavar="DEMO_FOLDER", type=Path, help="output of maskformer demo")
    parser.add_argument("output", metavar="OUTPUT_FOLDER", type=Path)
    parser.add_argument(
        "--history", type=Path, help="metrics.jsonl of another training than the demo's"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
