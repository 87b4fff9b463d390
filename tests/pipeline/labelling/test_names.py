"""Whatever a name looks like, its image is planned once, read under that name and has its row."""

import json
import os

from corpora import picture
from small_tables import READING, finish, settled
from web import site

from pipeline.corpora.reading import read_source
from pipeline.planning.planner import Plan
from pipeline.storage import Storage, join
from pipeline.table import latest
from pipeline.table.store import TableStore

NAMES = [
    "x::y.jpg", "a.jpg?versionId=1.jpg", "a%2Fb.jpg", "100%.jpg", "a#b.jpg", "[x]*?.jpg",
    "sp ace.jpg", "user@host.jpg", "line\nbreak.jpg", "~.jpg", "a?u=http:/b.jpg", "é.jpg",
    f"{'x' * 200}.jpg",
]  # fmt: skip
BYTES = ["byte\udcff.jpg", "\udce9t\udce9/\udcff.jpg"]
IDS = {"byte\udcff.jpg": "byte\\xff.jpg", "\udce9t\udce9/\udcff.jpg": "\\xe9t\\xe9/\\xff.jpg"}


def stored_pixels(plan: Plan, storage: Storage) -> dict[str, bytes | None]:
    sources = [source for unit in plan.units for source in unit.sources]
    images = [i for s in sources for i in read_source(s, storage=storage, settings=READING)]
    found = {image.image_id: image.data for image in images}
    assert len(found) == len(images)
    return found


def label_night(corpus: str, table: TableStore, run_id: str) -> dict[str, bytes | None]:
    """Labels a corpus; gives the encoded images by id, after the rows were read back."""
    plan = settled(corpus, table, run_id)
    found = stored_pixels(plan, table.storage)
    if "://" not in table.uri and "://" not in corpus:
        finish(plan.units, table)
        rows = latest.latest_images(table.uri, columns=["image_id", "uri"]).read_all().to_pylist()
        assert {row["image_id"] for row in rows} == {*found}
        assert {table.storage.read(row["uri"]) for row in rows} == {*found.values()}
        assert settled(corpus, table, f"{run_id}-again").units == ()
    return found


def test_names_on_a_disk(tmp_path, table):
    written = {name: picture(seed) for seed, name in enumerate([*NAMES, *BYTES])}
    for name, data in written.items():
        path = tmp_path / "c" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    expected = {IDS.get(name, name): data for name, data in written.items()}
    assert label_night(str(tmp_path / "c"), table, "run") == expected


def test_a_folder_whose_name_is_no_text(tmp_path, table):
    folder = tmp_path / os.fsdecode(b"in \xff::")
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture())
    assert label_night(str(folder), table, "run") == {"a.jpg": picture()}


def test_names_in_a_manifest(tmp_path, table):
    written = {name: picture(seed) for seed, name in enumerate([*NAMES, *BYTES[:1]])}
    for name, data in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    lines = "\n".join(json.dumps({"uri": name}) for name in [*written, "no\ud800.jpg"])
    (tmp_path / "m.jsonl").write_text(lines)
    found = stored_pixels(settled(str(tmp_path / "m.jsonl"), table, "run"), table.storage)
    assert {data for data in found.values() if data} == {*written.values()}
    assert len(found) == len(written) + 1  # one bad name is one row


def test_names_on_s3(s3_storage, tmp_path):
    written = {name: picture(seed) for seed, name in enumerate(NAMES)}
    root = f"s3://test/names/{os.getpid()}"
    for name, data in written.items():
        s3_storage.write(join(root, name), data)
    table = TableStore(str(tmp_path / "table"), s3_storage)
    assert label_night(root, table, "run") == written


def test_names_over_http(tmp_path, table):
    written = {name: picture(seed) for seed, name in enumerate(NAMES)}
    with site(written) as here:
        lines = [f"{here.url}{path}" for path in here.content]
        (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"uri": line}) for line in lines))
        found = stored_pixels(settled(str(tmp_path / "m.jsonl"), table, "run"), table.storage)
    assert found == {f"{here.url}{path}": data for path, data in here.content.items()}
