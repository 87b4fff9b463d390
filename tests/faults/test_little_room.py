"""Runs without room: a full disk, a small object store, a spill directory on a small disk."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import plain_corpus, written
from job_runs import ROOT, Jobs, running
from small_runs import UNIT_IMAGES, all_rows, begun, exit_code, written_corpus
from table_rows import assert_same
from table_rows import rows_of as rows_of_table
from waiting import wait_until

from maskformer import MaskFormerImageProcessor
from pipeline.table.store import images

_NAMES = [f"{n:02}.jpg" for n in range(16)]
_ENOUGH = 4096


class SmallDisk:
    """A tmpfs with room for so many kilobytes."""

    def __init__(self, folder: Path, *, kilobytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount(f"size={kilobytes}k")

    def grow(self, *, kilobytes: int) -> None:
        self._mount(f"remount,size={kilobytes}k")

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("who runs this may not mount a small tmpfs")


@contextlib.contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder, kilobytes=kilobytes)
    try:
        yield disk
    finally:
        disk.close()


def _fill_and_go_on(folder: Path, corpus: Path, *, kilobytes: int) -> int:
    """The number of images that a run left that found the disk full; the next one did the rest."""
    with small_disk(folder, kilobytes=kilobytes) as disk:
        code = exit_code(begun(corpus, disk.folder / "table", run_id="first"))
        seen = [row for row in all_rows(disk.folder / "table") if "unit_id" in row]
        segments = [row for row in all_rows(disk.folder / "table") if "rle" in row]
        assert {*Counter(row["unit_id"] for row in seen).values()} <= {UNIT_IMAGES}
        assert {row["image_id"] for row in seen} <= {row["image_id"] for row in segments}
        assert (code == 0) == (len(seen) == len(_NAMES))

        disk.grow(kilobytes=_ENOUGH)
        assert exit_code(begun(corpus, disk.folder / "table", run_id="second")) == 0
        rows = all_rows(disk.folder / "table")
        assert [row["image_id"] for row in rows if "unit_id" in row] == _NAMES
        assert [row["image_id"] for row in rows if "rle" in row] == _NAMES
        assert not list(disk.folder.glob("table/**/*.tmp"))
    return len(seen)


def test_where_the_disk_is_full_units_are_whole_or_not_there(tmp_path: Path) -> None:
    corpus = written_corpus(tmp_path / "corpus", names=_NAMES)
    left = [
        _fill_and_go_on(tmp_path / str(kilobytes), corpus, kilobytes=kilobytes)
        for kilobytes in (4, 60, 120, _ENOUGH)
    ]
    assert left[0] == 0
    assert 0 < left[2] < len(_NAMES)
    assert left[3] == len(_NAMES)


@pytest.mark.faults
def test_the_disk_is_full_at_every_page_that_a_run_writes(tmp_path: Path) -> None:
    corpus = written_corpus(tmp_path / "corpus", names=_NAMES)
    left, kilobytes = [0], 0
    while left[-1] < len(_NAMES):
        kilobytes += 4
        left.append(_fill_and_go_on(tmp_path / str(kilobytes), corpus, kilobytes=kilobytes))
    print(f"figure: {len(left) - 1} sizes of disk; images left at each: {Counter(left)}")
    assert len(left) > 20
    assert len(set(left)) > 4


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_job_whose_table_has_no_room_says_so_and_goes_on_when_it_has(
    jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    corpus = written(tmp_path / "corpus", plain_corpus(24))
    options = {"corpus": corpus, "unit_images": 2, **usual}
    jobs.run(**options, table=tmp_path / "roomy").expect(0)
    with small_disk(tmp_path / "small", kilobytes=160) as disk:
        full = jobs.run(**options, table=disk.folder / "table").expect(75)
        seen = images(str(disk.folder / "table")).to_table().to_pylist()
        assert 0 < len(seen) < 24
        assert {*Counter(row["unit_id"] for row in seen).values()} == {2}
        disk.grow(kilobytes=_ENOUGH)
        jobs.run(**options, table=disk.folder / "table").expect(0)
        assert_same(rows_of_table(disk.folder / "table"), rows_of_table(tmp_path / "roomy"))
    assert "No space left on device" in full.stdout + full.stderr
    assert "Traceback" not in full.stdout + full.stderr


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("spill_megabytes", [None, 8])
def test_a_corpus_of_three_times_the_object_store_is_labelled(
    spill_megabytes: int | None, jobs: Jobs, usual: dict[str, Any], tmp_path: Path
) -> None:
    """Blocks wait in the store for the actor; what does not fit there is spilled, or waits."""
    corpus = written(tmp_path / "corpus", plain_corpus(150))
    model = shutil.copytree(usual["model"], tmp_path / "model")
    MaskFormerImageProcessor(size={"shortest_edge": 640}).save_pretrained(model)
    options = {**usual, "corpus": corpus, "model": model, "unit_images": 25}
    with contextlib.ExitStack() as stack:
        store: dict[str, Any] = {"object_store_memory": 80_000_000}
        if spill_megabytes is not None:
            disk = small_disk(tmp_path / "small", kilobytes=1024 * spill_megabytes)
            store["object_spilling_directory"] = str(stack.enter_context(disk).folder)
        nodes = jobs.start_command(
            [sys.executable, str(ROOT / "tests/jobs/nodes.py"), str(tmp_path), json.dumps(store)],
            environment={"RAY_AUTH_MODE": "disabled"},
        )
        stack.enter_context(running(nodes))
        wait_until((tmp_path / "address").exists, what="the cluster")
        job = jobs.start(
            **options,
            table=tmp_path / "table",
            ray_address=(tmp_path / "address").read_text(),
            environment={"RAY_AUTH_MODE": "disabled"},
        )
        job.end().expect(0)
    jobs.run(**options, table=tmp_path / "roomy").expect(0)
    found = rows_of_table(tmp_path / "table")
    assert len(found.ids) == 150
    assert_same(found, rows_of_table(tmp_path / "roomy"))
