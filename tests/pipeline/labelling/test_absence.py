"""What was labelled and is not there tonight keeps its rows; what nobody can tell of waits."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from corpora import picture, put, tar
from file_histories import NAMES, histories
from hypothesis import HealthCheck, given, settings
from small_tables import READING, finish, latest_areas, settled
from web import Site, site

from pipeline.corpora import lookups
from pipeline.corpora.reading import read_source
from pipeline.planning.planner import Plan
from pipeline.storage import Storage, StorageFault
from pipeline.table.store import TableStore

STORAGE = Storage(storage_attempts=2)


@pytest.fixture
def table(tmp_path) -> TableStore:
    return TableStore(str(tmp_path / "table"), STORAGE)


@pytest.fixture
def server() -> Iterator[Site]:
    with site({f"{name}.jpg": picture(seed) for seed, name in enumerate("abc")}) as here:
        yield here


def planned_names(plan: Plan) -> list[str]:
    return [Path(source.uri).name for unit in plan.units for source in unit.sources]


def planned_errors(plan: Plan) -> list[str]:
    sources = [source for unit in plan.units for source in unit.sources]
    images = [i for s in sources for i in read_source(s, storage=STORAGE, settings=READING)]
    return [image.error.error_class for image in images if image.error]


def write_manifest(folder: Path, uris: Iterable[str]) -> str:
    put(folder, {"m.csv": "\n".join(["uri", *uris]).encode()})
    return str(folder / "m.csv")


@pytest.mark.parametrize("mood", ["503", "429", "500", "403", "close", "unreached"])
def test_an_outage_takes_no_row_and_makes_none(tmp_path, table, server, mood):
    corpus = write_manifest(tmp_path / "c", [f"{server.url}/{name}.jpg" for name in "abc"])
    finish(settled(corpus, table, "run-1").units, table)
    before = latest_areas(table)
    assert len(before) == 3
    corpus = write_manifest(tmp_path / "c", [f"{server.url}/{name}.jpg" for name in "abcd"])
    if mood == "unreached":
        corpus = write_manifest(
            tmp_path / "c", [f"http://127.0.0.1:9/{name}.jpg" for name in "abcd"]
        )
    else:
        server.moods.update({f"/{name}.jpg": mood for name in "abcd"})
    with pytest.raises(StorageFault, match="failed: 4, for example look at http"):
        settled(corpus, table, "run-2")
    assert latest_areas(table) == before


def test_of_some_that_nobody_can_tell_of_the_others_are_labelled_and_they_follow(
    tmp_path, table, server
):
    corpus = write_manifest(tmp_path / "c", [f"{server.url}/{name}.jpg" for name in "abcd"])
    server.moods["/b.jpg"] = "503"
    plan = settled(corpus, table, "run-1")
    assert (planned_names(plan), plan.out_of_reach) == (["a.jpg", "c.jpg", "d.jpg"], 1)
    assert "/b.jpg" in plan.storage_faults[0]
    assert planned_errors(plan) == ["NotFound"]  # d: the server says so
    finish(plan.units, table)
    server.moods.clear()
    plan = settled(corpus, table, "run-2")
    assert (planned_names(plan), plan.out_of_reach) == (["b.jpg"], 0)


def test_an_undone_unit_does_not_wait_for_a_file_that_nobody_can_tell_of(tmp_path, table, server):
    corpus = write_manifest(tmp_path / "c", [f"{server.url}/{name}.jpg" for name in "abc"])
    settled(corpus, table, "run-1")
    server.moods["/b.jpg"] = "500"
    plan = settled(corpus, table, "run-2")
    assert (planned_names(plan), plan.out_of_reach) == (["a.jpg", "c.jpg"], 1)
    finish(plan.units, table)
    server.moods.clear()
    assert planned_names(settled(corpus, table, "run-3")) == ["b.jpg"]


def test_a_host_that_fails_again_and_again_is_left_alone(tmp_path, table, server, monkeypatch):
    monkeypatch.setattr(lookups, "_MOST_FAULTS_IN_A_ROW", 5)
    away = [f"http://127.0.0.1:9/{number}.jpg" for number in range(500)]
    corpus = write_manifest(tmp_path / "c", [*away, f"{server.url}/a.jpg"])
    plan = settled(corpus, table, "run-1")
    assert (planned_names(plan), plan.out_of_reach) == (["a.jpg"], 500)
    refused = [f"{server.url}/b.jpg?{number}" for number in range(50)]
    server.moods.update({f"/b.jpg?{number}": "403" for number in range(50)})
    corpus = write_manifest(tmp_path / "d", [*refused, f"{server.url}/c.jpg"])
    plan = settled(corpus, table, "run-2")
    assert (planned_names(plan), plan.out_of_reach) == (["c.jpg"], 50)


def test_an_entry_that_was_labelled_and_is_gone_plans_nothing_and_is_counted(tmp_path, table):
    folder = tmp_path / "c"
    put(folder, {"a.jpg": b"1", "b.jpg": b"12", "t.tar": tar([("x.jpg", b"123")])})
    corpus = write_manifest(folder, ["a.jpg", "b.jpg", "t.tar", "never.jpg"])
    finish(settled(corpus, table, "run-1").units, table)
    before = latest_areas(table)
    for name in ("b.jpg", "t.tar"):
        (folder / name).unlink()
    plan = settled(corpus, table, "run-2")
    assert (plan.units, plan.gone, plan.first_gone) == ((), 2, str(folder / "b.jpg"))
    assert latest_areas(table) == before
    put(folder, {"b.jpg": b"other"})
    plan = settled(corpus, table, "run-3")
    assert (planned_names(plan), plan.gone, plan.first_gone) == (
        ["b.jpg"],
        1,
        str(folder / "t.tar"),
    )
    finish(plan.units, table)
    assert latest_areas(table) == {**before, "b.jpg": 5}


def test_where_all_that_a_manifest_names_is_gone_its_disk_is_asked_for(tmp_path, table):
    folder = tmp_path / "c"
    put(folder, {"disk/a.jpg": b"1", "disk/b.jpg": b"12"})
    corpus = write_manifest(folder, ["disk/a.jpg", "disk/b.jpg"])
    finish(settled(corpus, table, "run-1").units, table)
    before = latest_areas(table)
    shutil.move(folder / "disk", folder / "unmounted")
    corpus = write_manifest(folder, ["disk/a.jpg", "disk/b.jpg", "disk/new.jpg"])
    for wait in (False, True):
        with pytest.raises(StorageFault, match=r"none of the 3 files .*mounted"):
            settled(
                corpus, table, "run-2", waits=lambda file, wait=wait: wait and "new" in file.uri
            )
    assert latest_areas(table) == before
    shutil.move(folder / "unmounted", folder / "disk")
    plan = settled(corpus, table, "run-3")
    assert (planned_names(plan), plan.done) == (["new.jpg"], 1)


@pytest.mark.parametrize("way", ["empty folder", "no folder", "other files"])
def test_a_folder_that_had_images_and_has_none_is_asked_for(tmp_path, table, way):
    folder = tmp_path / "mount" / "c"
    corpus = put(folder, {"in/a.jpg": b"1"})
    finish(settled(corpus, table, "run-1").units, table)
    shutil.rmtree(tmp_path / "mount" if way == "no folder" else folder / "in")
    if way == "other files":
        put(folder, {"lost+found": b""})
    for place in (corpus, f"{corpus}/in", str(tmp_path / "mount")):
        with pytest.raises(StorageFault, match=rf"no image at {place} .*mounted"):
            settled(place, table, "run-2")
    # A path that was never labelled is a mistake in the command.
    with pytest.raises(ValueError, match="no image"):
        settled(str(tmp_path / "mount" / "cc"), table, "run-2")


def test_a_manifest_that_is_gone_itself_is_known_by_the_report_of_its_run(tmp_path, table):
    put(tmp_path, {"disk/a.jpg": b"1"})
    corpus = write_manifest(tmp_path / "c", [str(tmp_path / "disk" / "a.jpg")])
    finish(settled(corpus, table, "run-1").units, table)
    report = {"corpus": os.path.relpath(corpus), "images": 1, "images_in_error": 0}
    table.storage.write(table.file("_runs", "run-1", "report.json"), json.dumps(report).encode())
    os.unlink(corpus)
    with pytest.raises(StorageFault, match=rf"no image at {corpus} .*mounted"):
        settled(corpus, table, "run-2")


def test_entries_that_were_never_there_have_rows_that_say_so_every_time(tmp_path, table):
    corpus = write_manifest(tmp_path / "c", ["a.jpg", "b.jpg"])
    plan = settled(corpus, table, "run-1")
    assert planned_errors(plan) == ["NotFound", "NotFound"]
    finish(plan.units, table)
    assert settled(corpus, table, "run-2").units == ()


@given(histories())
@settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_over_any_nights_no_absence_comes_after_what_was_there(history):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "c")
        table = TableStore(str(Path(folder, "table")), Storage())
        corpus = write_manifest(root, [*NAMES, "always.jpg"])
        put(root, {"always.jpg": bytes(1)})
        now: dict[str, int] = {}
        labelled: dict[str, int] = {}

        def do(plan: Plan, count: int | None) -> None:
            for unit in plan.units[:count]:
                finish([unit], table)
                for source in unit.sources:
                    if source.etag:
                        name = source.uri.removeprefix(f"{root}/")
                        labelled[name] = now.get(name, 1)

        for number, night in enumerate(history):
            for name, version in night["changes"]:
                if version:
                    data = bytes(version)
                    put(root, {name: tar([("x.jpg", data)]) if name.endswith("tar") else data})
                    os.utime(root / name, (version, version))
                    now[name] = version
                elif now.pop(name, None):
                    (root / name).unlink()
            plan = settled(corpus, table, f"run-{number}", unit_images=night["unit_images"])
            do(plan, night["done"])
        do(settled(corpus, table, "last"), None)

        # A tar has a row of its own while it is absent, and rows of its members then.
        found = latest_areas(table)
        found |= {name: found.get(f"{name}/x") for name in NAMES if name.endswith("tar")}
        assert {name: found[name] for name in labelled} == labelled
        assert {name: found[name] for name in now} == now
        assert settled(corpus, table, "none").units == ()
