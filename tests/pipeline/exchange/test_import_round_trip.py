"""Export, a change by hand, import: the reviewed state shows that change and no other."""

import shutil
from pathlib import Path

import pytest
from drawn_tables import draw_table
from import_files import (
    DELETED,
    DRAWN,
    FORMATS,
    RELABELLED,
    expected_state,
    export,
    sizes_of,
    table_state,
    take,
)

from pipeline.cli.__main__ import main
from pipeline.exchange.importing import run as importing
from pipeline.reviews.log import ReviewLog
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def exports(table, tmp_path_factory):
    """An export in each format, and beside it one that was changed by hand."""
    root = tmp_path_factory.mktemp("exports")
    for each in FORMATS:
        export(table, root / each.name, each.name)
        shutil.copytree(root / each.name, root / f"{each.name}_edited")
        each.edit(root / f"{each.name}_edited" / each.file)
    return root


def log_files(reviews: Path) -> list[str]:
    return sorted(str(path.relative_to(reviews)) for path in reviews.rglob("*.parquet"))


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_an_export_that_nobody_changed_adds_nothing(format, table, exports, tmp_path, capsys):
    file = exports / format.name / format.file
    assert take(table, file, format.name, "--reviews", str(tmp_path / "r")) == 0
    assert "as before: 15; corrected: 0" in capsys.readouterr().out
    assert not log_files(tmp_path)


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_change_by_hand_comes_back_and_nothing_else(format, table, exports, tmp_path, capsys):
    file, reviews = exports / f"{format.name}_edited" / format.file, str(tmp_path / "r")
    asked = ("--reviews", reviews, "--reviewer", "ana")
    assert take(table, file, format.name, *asked) == 0
    assert "as before: 12; corrected: 3" in capsys.readouterr().out
    sizes = sizes_of(table)
    assert table_state(table, reviews) == expected_state(table, sizes)

    log = ReviewLog(reviews, Storage())
    kinds = {RELABELLED: "relabel", DELETED: "delete", DRAWN: "draw"}
    for image_id, kind in kinds.items():
        [revision] = log.history(image_id)
        [operation] = revision.operations
        assert (operation.kind, revision.status) == (kind, "corrected")
        assert (revision.reviewer, revision.tool) == ("ana", f"import {format.name}")
        assert revision.changed_pixels == operation.pixels > 0
    [relabelled] = log.history(RELABELLED)
    assert relabelled.segments[0].origin_segment_id == 1

    # Again: nothing. Exported again: the file as it was changed.
    assert take(table, file, format.name, *asked) == 0
    assert "as before: 15; corrected: 0" in capsys.readouterr().out
    assert len(log_files(tmp_path)) == 3
    export(table, tmp_path / "again", format.name, "--reviews", reviews)
    again, edited = format.content(tmp_path / "again" / format.file), format.content(file)
    assert {name: content for name, content in again.items() if content} == {
        name: content for name, content in edited.items() if content
    }
    assert take(table, tmp_path / "again" / format.file, format.name, *asked) == 0
    assert len(log_files(tmp_path)) == 3


@pytest.mark.parametrize("format", FORMATS, ids=lambda format: format.name)
def test_a_kill_in_the_middle_and_the_same_command_again_end_the_same(
    format, table, exports, tmp_path, monkeypatch
):
    file, reviews = exports / f"{format.name}_edited" / format.file, str(tmp_path / "r")
    saved = []

    def save(log, revision, *, base):
        if saved:
            raise KeyboardInterrupt
        saved.append(revision.image_id)
        return importing_save(log, revision, base=base)

    importing_save = importing.save
    monkeypatch.setattr(importing, "save", save)
    asked = ("--reviews", reviews, "--reviewer", "ana")
    assert take(table, file, format.name, *asked) == 75
    assert len(log_files(tmp_path)) == 1
    monkeypatch.undo()
    assert take(table, file, format.name, *asked) == 0
    assert table_state(table, reviews) == expected_state(table, sizes_of(table))
    assert len(log_files(tmp_path)) == 3


def test_the_file_says_who_corrected_it(table, exports, tmp_path, capsys):
    for name, file, who in (
        ("cvat", "annotations.xml", "assignee of the task"),
        ("label_studio", "tasks.json", "a@b.c"),
    ):
        reviews = str(tmp_path / name)
        assert take(table, exports / f"{name}_edited" / file, name, "--reviews", reviews) == 0
        assert ReviewLog(reviews, Storage()).history(DRAWN)[0].reviewer == who
    file = exports / "coco_instances_edited/annotations/instances_default.json"
    assert take(table, file, "coco_instances", "--reviews", str(tmp_path / "c")) == 2
    assert "give --reviewer NAME" in capsys.readouterr().err
    assert not log_files(tmp_path / "c")


def test_a_dry_run_writes_nothing(table, exports, tmp_path, capsys):
    file = exports / "cvat_edited/annotations.xml"
    assert take(table, file, "cvat", "--reviews", str(tmp_path / "r"), "--dry_run") == 0
    assert "would be corrected: 3" in capsys.readouterr().out
    assert not log_files(tmp_path)
    assert take(table, file, "cvat", "--reviews", str(tmp_path / "r")) == 0
    assert take(table, file, "cvat", "--reviews", str(tmp_path / "r"), "--dry_run") == 0
    assert "would be corrected: 0" in capsys.readouterr().out


def test_file_export_and_table_in_a_bucket(s3, tmp_path, monkeypatch, capsys):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage().with_environment()
    table = draw_table("s3://test/round/table", units=("a", "b", "c"), storage=storage).uri
    for format in FORMATS[1:3]:
        out, local = f"s3://test/round/{format.name}", tmp_path / format.name
        words = [table, out, "--format", format.name, "--images", "none"]
        assert main(["export", *words]) == 0
        for file in list(storage.files(out)):
            place = local / file.uri.removeprefix(f"{out}/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(storage.read(file.uri))
        format.edit(local / format.file)
        for place in local.rglob("*.*"):
            storage.write(f"{out}/{place.relative_to(local)}", place.read_bytes())
        reviews = f"s3://test/round/reviews-{format.name}"
        asked = ("--reviews", reviews, "--reviewer", "ana")
        for said in ("as before: 12; corrected: 3", "as before: 15; corrected: 0"):
            assert take(table, f"{out}/{format.file}", format.name, *asked) == 0
            assert said in capsys.readouterr().out
        assert table_state(table, reviews) == expected_state(table, sizes_of(table))
