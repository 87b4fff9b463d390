"""Exports that are killed, find the disk full or the bucket failing: run again, the same OUT."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from exported_tables import Drawn, corpus, draw, exported, files_below, photo
from s3 import S3Server, storage_at
from s3_proxy import s3_proxy

from pipeline.datasets.exports import UNFINISHED
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings
from pipeline.datasets.target import LabelError
from pipeline.exchange.exporting.export_file import WHOLE
from pipeline.exchange.exporting.output import GrowingFile, Output
from pipeline.runtime.exit_codes import ExitCode
from pipeline.storage import Storage, StorageFault
from pipeline.storage.local_files import LocalFiles
from pipeline.table.store import TableStore

FORMATS = ("coco_panoptic", "coco_instances", "label_maps", "yolo", "hf", "webdataset")
ROOT = Path(__file__).parents[3]
FEW = {name: corpus()[name] for name in ("a.jpg", "a.png", "empty.jpg", "shard.tar")}
"""Two units: a table that is exported often stays small."""


class Killed(BaseException):
    """The end of a process, in this one."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("drawn"), files=FEW)


def kill_after(monkeypatch: pytest.MonkeyPatch, writes: int, end: Callable[[], None]) -> None:
    """Makes each write from that number on end early, and leave a draft as a kill does."""
    put, count = LocalFiles.put, iter(range(10**6))

    def counted(self: LocalFiles, path: str, data: bytes) -> None:
        if next(count) < writes:
            put(self, path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{0:032x}.tmp")
        draft.write_bytes(data[: len(data) // 2])
        end()

    monkeypatch.setattr(LocalFiles, "put", counted)


def kill() -> None:
    raise Killed


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("format", FORMATS)
def test_run_again_after_a_kill_at_any_write_an_export_has_the_same_bytes(
    drawn: Drawn, tmp_path: Path, format: str
) -> None:
    assert exported(drawn, tmp_path / "whole", format) == ExitCode.DONE
    expected = files_below(tmp_path / "whole")
    assert UNFINISHED not in expected
    for writes in (0, len(expected) // 2, len(expected)):  # the first one is the mark
        out = tmp_path / f"killed-{writes}"
        with pytest.MonkeyPatch.context() as monkeypatch:
            kill_after(monkeypatch, writes, kill)
            with pytest.raises(Killed):
                exported(drawn, out, format)
        assert not (out / WHOLE).exists(), "a half export is never whole"
        if writes:
            with pytest.raises(LabelError, match="is not whole"):
                open_labelled(DatasetSettings(dataset=str(out)))
        assert exported(drawn, out, format) == ExitCode.DONE
        assert files_below(out) == expected, writes


def test_a_full_disk_is_a_fault_of_storage_and_the_next_run_ends_it(
    drawn: Drawn, tmp_path: Path
) -> None:
    exported(drawn, tmp_path / "whole", "coco_panoptic")
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, 7, full_disk)
        with pytest.raises(StorageFault, match=r"No space left.*make room there"):
            exported(drawn, tmp_path / "out", "coco_panoptic")
    assert not (tmp_path / "out" / WHOLE).exists()
    exported(drawn, tmp_path / "out", "coco_panoptic")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_a_full_disk_for_growing_files_is_a_fault_too(tmp_path: Path) -> None:
    with Output(str(tmp_path), Storage()) as output:
        file = GrowingFile(output=output, name="x", folder=str(tmp_path))
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), file.file.fileno())
        file.write(b"x" * 100)
        with pytest.raises(StorageFault, match=r"No space left.*TMPDIR"):
            file.finish()


def test_between_the_last_write_and_its_end_an_export_is_whole(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(drawn, tmp_path, "coco_instances", images="none")
    whole = files_below(tmp_path)
    (tmp_path / UNFINISHED).write_bytes(b'{"export": 1}')
    exported(drawn, tmp_path, "coco_instances", images="none")
    assert files_below(tmp_path) == whole


def test_an_unfinished_export_of_other_settings_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_after(monkeypatch, 3, kill)
        with pytest.raises(Killed):
            exported(drawn, tmp_path, "yolo", min_score=0.5)
    with pytest.raises(ValueError, match=r"unfinished export of another kind: settings.min_score"):
        exported(drawn, tmp_path, "yolo", min_score=0.6)


def test_a_table_that_has_grown_since_is_another_export(tmp_path: Path) -> None:
    files = {f"{number}.jpg": photo(number, size=(8, 9)) for number in range(3)}
    drawn = draw(tmp_path, files=files)
    exported(drawn, tmp_path / "out", "yolo")
    (tmp_path / "photos/new.jpg").write_bytes(photo(9))
    grown = draw_again(tmp_path, drawn)
    with pytest.raises(ValueError, match=r"another export: state\.images is 3 there, and 4 here"):
        exported(grown, tmp_path / "out", "yolo")


def draw_again(folder: Path, drawn: Drawn) -> Drawn:
    """The table after a second run over its corpus."""
    import exported_tables as tables

    from pipeline.planning.planner import UnitSettings, plan_corpus, settle_plan

    def plan():  # type: ignore[no-untyped-def]
        return plan_corpus(
            str(folder / "photos"), table=drawn.table, spec=tables.SPEC, reading=tables.READING,
            units=UnitSettings(unit_images=3),
        )  # fmt: skip

    settled = settle_plan(plan(), plan_again=plan, table=drawn.table, run_id="night-2")
    done = drawn.table.done_units()
    for unit in settled.units:
        if unit.unit_id not in done:
            tables.label_unit(drawn.table, unit, storage=Storage())
    return drawn


def test_a_killed_process_leaves_an_export_that_the_same_command_ends(tmp_path: Path) -> None:
    files = {f"{number:03}.jpg": photo(number, size=(8, 9)) for number in range(60)}
    drawn = draw(tmp_path, files=files)
    out = tmp_path / "out"
    words = ["export", drawn.table.uri, str(out), "--format", "label_maps", "--key_column", "key"]
    command = [sys.executable, "-m", "pipeline.cli", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if len([*out.glob("annotations/*")]) > 5:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    is_whole = (out / WHOLE).exists()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert is_whole or "exported 60 images" in again.stdout
    exported(drawn, tmp_path / "whole", "label_maps")
    assert files_below(out) == files_below(tmp_path / "whole")


@pytest.fixture(scope="module")
def remote(s3: S3Server) -> tuple[Drawn, S3Server]:
    """A table and its corpus in a bucket."""
    storage = storage_at(s3.endpoint_url)
    for name, data in FEW.items():
        storage.write(f"s3://test/exports/photos/{name}", data)
    drawn = draw(
        Path("unused"), storage=storage, table="s3://test/exports/table",
        corpus_uri="s3://test/exports/photos",
    )  # fmt: skip
    return drawn, s3


def objects_below(storage: Storage, uri: str) -> dict[str, bytes]:
    return {file.uri.removeprefix(f"{uri}/"): storage.read(file.uri) for file in storage.files(uri)}


@pytest.mark.parametrize("format", ["coco_panoptic", "webdataset"])
def test_a_bucket_that_fails_gives_what_a_sound_one_gives(
    remote: tuple[Drawn, S3Server], tmp_path: Path, format: str
) -> None:
    drawn, server = remote
    sound = f"s3://test/exports/{format}/sound"
    assert exported(drawn, sound, format) == ExitCode.DONE
    expected = objects_below(drawn.table.storage, sound)
    assert WHOLE in expected
    assert exported(drawn, tmp_path / "local", format) == ExitCode.DONE
    assert files_below(tmp_path / "local") == expected, "a disk holds what a bucket holds"
    with s3_proxy(server, rate=0.2, seed=4) as proxy:
        storage = storage_at(proxy.endpoint_url, read_timeout_seconds=0.5, storage_attempts=40)
        table = TableStore(drawn.table.uri, storage)
        behind = Drawn(table=table, truth=drawn.truth, sizes=drawn.sizes)
        faulty = f"s3://test/exports/{format}/faulty"
        for attempt in range(20):
            try:
                exported(behind, faulty, format)
            except StorageFault:
                assert attempt < 19
            else:
                break
        assert sum(proxy.faults.values()) > 5
    assert objects_below(drawn.table.storage, faulty) == expected
