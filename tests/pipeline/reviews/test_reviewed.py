"""Readers get the newest revision of an image that counts, the model's rows of all others."""

from pathlib import Path

import duckdb
import pytest
from drawn_reviews import looked_at, relabelled
from drawn_tables import commit, draw_table, image_row, plan, plan_unit

from pipeline.reviews import reviewed
from pipeline.reviews.log import ReviewLog
from pipeline.reviews.saving import save
from pipeline.storage import Storage
from pipeline.table.latest import latest_images, latest_segments
from pipeline.table.store import IMAGES, SEGMENTS

STORAGE = Storage()


def reviewed_segments(table, log, **options):
    return reviewed.reviewed_segments(table.uri, log.uri, storage=STORAGE, **options).read_all()


def reviewed_images(table, log, **options):
    return reviewed.reviewed_images(table.uri, log.uri, storage=STORAGE, **options).read_all()


def by_image(rows) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["image_id"], []).append(row)
    return {
        name: sorted(of, key=lambda row: row.get("segment_id", 0)) for name, of in found.items()
    }


def test_without_reviews_the_rows_are_the_models(table, log):
    rows = reviewed_segments(table, log)
    assert rows.schema.names == [*SEGMENTS.names, "origin"]
    assert set(rows["origin"].to_pylist()) == {"model"}
    assert rows.select(SEGMENTS.names) == latest_segments(table.uri, storage=STORAGE).read_all()
    images = reviewed_images(table, log)
    assert images.select(IMAGES.names) == latest_images(table.uri, storage=STORAGE).read_all()
    assert images["review_status"].null_count == len(images)


def test_an_accepted_image_keeps_the_models_rows(table, log):
    log.append(looked_at(table, "a/0000.jpg"))
    model = latest_segments(table.uri, storage=STORAGE).read_all()
    assert by_image(reviewed_segments(table, log).select(SEGMENTS.names)) == by_image(model)
    images = by_image(reviewed_images(table, log))
    model_images = by_image(latest_images(table.uri, storage=STORAGE).read_all())
    (row,), (own,) = images["a/0000.jpg"], model_images["a/0000.jpg"]
    assert (row["review_status"], row["reviewer"]) == ("accepted", "anna")
    assert {name: row[name] for name in IMAGES.names} == pytest.approx(own)


def test_a_correction_shows_and_nothing_else_changes(table, log):
    first = looked_at(table, "a/0000.jpg")
    changed = relabelled(first.segments[1:], 2, "tree", 2)
    save(log, first.replace(status="corrected", segments=changed))
    model = by_image(latest_segments(table.uri, storage=STORAGE).read_all())
    found = by_image(reviewed_segments(table, log))
    rows = found.pop("a/0000.jpg")
    old = model.pop("a/0000.jpg")
    assert [row["segment_id"] for row in rows] == list(range(1, len(old)))
    assert (rows[0]["label"], rows[0]["score"], rows[0]["origin"]) == ("tree", None, "human")
    assert [row["rle"] for row in rows] == [row["rle"] for row in old[1:]]
    for of_image in found.values():
        for row in of_image:
            assert row.pop("origin") == "model"
    assert found == model
    (image,) = by_image(reviewed_images(table, log))["a/0000.jpg"]
    assert (image["num_segments"], image["origin"]) == (len(rows), "human")
    area = sum(row["area"] for row in rows)
    assert image["coverage"] == pytest.approx(area / (first.height * first.width))


def test_an_unusable_image_has_no_segments_and_says_so(table, log):
    log.append(looked_at(table, "a/0001.jpg").replace(status="unusable"))
    assert "a/0001.jpg" not in by_image(reviewed_segments(table, log))
    (row,) = by_image(reviewed_images(table, log))["a/0001.jpg"]
    assert (row["status"], row["num_segments"], row["coverage"]) == ("unusable", 0, None)


def test_a_flagged_image_gives_its_revision_and_says_so(table, log):
    first = looked_at(table, "a/0001.jpg")
    log.append(first.replace(status="flagged", comment="what is it?"))
    assert len(by_image(reviewed_segments(table, log))["a/0001.jpg"]) == len(first.segments)
    (row,) = by_image(reviewed_images(table, log))["a/0001.jpg"]
    assert (row["status"], row["review_status"]) == ("ok", "flagged")


def test_columns_are_chosen(table, log):
    log.append(looked_at(table, "a/0000.jpg"))
    rows = reviewed_segments(table, log, columns=["label", "origin"])
    assert rows.schema.names == ["label", "origin"]
    assert len(rows) == len(reviewed_segments(table, log))
    assert reviewed_images(table, log, columns=["review_status"]).schema.names == ["review_status"]


def test_a_review_of_a_photograph_that_changed_is_kept_and_listed(tmp_path):
    table = draw_table(str(tmp_path / "table"), units=("a",))
    log = ReviewLog.of_table(table.uri, reviews=None, storage=STORAGE)
    names = [f"a/000{number}.jpg" for number in (0, 1, 3)]
    for name in names:
        log.append(looked_at(table, name))
    log.append(looked_at(table, names[0]).replace(image_id="gone.jpg"))
    newer = [image_row(0, unit="b", image_id=names[0], etag="new")]
    plan(table, [plan_unit("b", newer)], run_id="night-2", number=1)
    commit(table, "b", newer)
    stale = {each.image_id: each.reason for each in reviewed.stale_reviews(table.uri)}
    assert stale == {
        "gone.jpg": "the image is not in the table",
        names[0]: f"the photograph has changed: its etag was e-{names[0]}, is new",
    }
    found = by_image(reviewed.reviewed_segments(table.uri).read_all())
    assert {row["origin"] for row in found[names[0]]} == {"model"}
    assert len(found[names[0]]) == newer[0]["num_segments"]
    assert log.latest(names[0]) is not None


def test_labels_go_by_name_into_a_table_of_another_model(tmp_path, table, log):
    first = looked_at(table, "a/0000.jpg")
    log.append(first)
    other = draw_table(str(tmp_path / "other"))
    turned = ("tree", "sky", "car")
    content = other.storage.read(other.file("_table.json")).decode()
    car, tree = '"car"', '"tree"'
    content = content.replace(car, "X").replace(tree, car).replace("X", tree)
    other.storage.write(other.file("_table.json"), content.encode())
    rows = by_image(reviewed_segments(other, log))["a/0000.jpg"]
    assert [row["label_id"] for row in rows] == [turned.index(row["label"]) for row in rows]
    assert [row["label"] for row in rows] == [each.label for each in first.segments]
    other.storage.write(other.file("_table.json"), content.replace(tree, '"bush"').encode())
    (stale,) = reviewed.stale_reviews(other.uri, log.uri)
    assert stale.reason == "the table has no label tree"


def test_duckdb_reads_the_same_from_plain_files_as_the_readme_says(table, log):
    first = looked_at(table, "a/0000.jpg")
    save(log, first)
    save(log, first.replace(parent_revision=1, status="corrected", segments=first.segments[1:]))
    save(log, looked_at(table, "b/0001.jpg").replace(status="unusable"))
    readme = Path(reviewed.__file__).with_name("README.md").read_text()
    statements = readme.split("```sql")[1].split("```")[0]
    with duckdb.connect() as database:
        database.execute(statements.replace("TABLE", table.uri).replace("REVIEWS", log.uri))
        found = database.sql("FROM reviewed").to_arrow_table()
    mine = reviewed_segments(table, log)
    keys = ["image_id", "segment_id", "label", "area", "rle", "origin"]
    assert sorted(map(str, found.select(keys).to_pylist())) == sorted(
        map(str, mine.select(keys).to_pylist())
    )
