"""The command `select`: reasons, balance, seed; and queues as corpora."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from as_files import encode_image
from compared_tables import Regions, Shape, write_drawn_table
from corpora import parquet, put, tar
from drawn_labels import scenes
from small_tables import finish, settled

from pipeline.cli.running import run_job
from pipeline.comparison.queue import QUEUE
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.review_page.reading_index import read_index
from pipeline.runtime.progress import ProgressDisplay
from pipeline.storage import Storage
from pipeline.table.store import TableStore

CAR, SKY = (10, 2, 20, 12), (0, 0, 8, 32)
SURE = [Shape("sky", SKY, 0.95), Shape("car", CAR, 0.95)]
IMAGES = {
    **{f"sure-{n:02}.jpg": Regions(shapes=SURE) for n in range(20)},
    "close.jpg": Regions(shapes=[Shape("sky", SKY, 0.9), Shape("car", CAR, 0.5, ("boat", 0.45))]),
    "low.jpg": Regions(shapes=[Shape("sky", SKY, 0.52, ("car", 0.1)), Shape("car", CAR, 0.9)]),
    "low-2.jpg": Regions(shapes=[Shape("sky", SKY, 0.6), Shape("car", CAR, 0.9)]),
    "boat.jpg": Regions(shapes=[Shape("boat", SKY, 0.95)]),
    "empty.jpg": Regions(shapes=[]),
    "error.jpg": Regions(shapes=None),
}
LABELS = ("boat", "car", "sky")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> TableStore:
    return write_drawn_table(tmp_path_factory.mktemp("select") / "t", IMAGES, labels=LABELS)


def selected(table: TableStore, place, *words: str) -> list[dict]:
    assert run_job("select", [table.uri, "--output", str(place), *words]) == 0
    rows = pq.read_table(place)
    assert rows.schema.equals(QUEUE)
    assert rows["rank"].to_pylist() == list(range(1, len(rows) + 1))
    return rows.to_pylist()


def test_unsure_is_where_the_second_label_is_close_and_says_so(table, tmp_path):
    rows = selected(table, tmp_path / "q.parquet", "--by=unsure", "--count=4")
    # Labels take turns: the boat comes before a second sky, which is more unsure.
    ids = [row["image_id"] for row in rows]
    assert ids == ["close.jpg", "low.jpg", "low-2.jpg", "boat.jpg"]
    assert [row["reasons"] for row in rows[:3]] == [
        ["car of 13.0 % of the image has score 0.50, boat 0.45"],
        ["sky of 33.3 % of the image has score 0.52, car 0.10"],
        ["sky of 33.3 % of the image has score 0.60"],
    ]


def test_labels_take_turns_and_none_has_more_than_its_share(table, tmp_path):
    rows = selected(table, tmp_path / "q.parquet", "--by=unsure", "--count=3", "--per_label=1")
    assert {row["label"] for row in rows} == {"boat", "car", "sky"}
    few = selected(table, tmp_path / "q.parquet", "--by=unsure", "--per_label=2")
    assert [row["label"] for row in few].count("sky") == 2


def test_strange_is_what_few_images_are_and_says_why(table, tmp_path):
    rows = selected(table, tmp_path / "q.parquet", "--by=strange", "--count=4")
    found = {row["image_id"]: row["reasons"][0] for row in rows}
    assert "boat.jpg" in found
    assert "boat most" in found["boat.jpg"]
    assert "cover only 0.0 %" in found["empty.jpg"]


def test_a_queue_and_the_page_find_the_same_images_strange(tmp_path):
    random = np.random.default_rng(11)
    labels = ("boat", "car", "sky")

    def shapes(rows: int) -> list[Shape]:
        splits = sorted(random.integers(0, 24, rows).tolist())
        bounds = zip([0, *splits], [*splits, int(random.integers(18, 25))], strict=True)
        return [
            Shape(labels[int(random.choice(3, p=[0.05, 0.25, 0.7]))], (top, 0, bottom, 32),
                  score=float(random.beta(9, 2)))
            for top, bottom in bounds if bottom > top
        ]  # fmt: skip

    images = {f"{n:03}.jpg": Regions(shapes=shapes(n % 4)) for n in range(40)}
    images |= {"empty.jpg": Regions(shapes=[]), "error.jpg": Regions(shapes=None)}
    table = write_drawn_table(tmp_path / "t", images, labels=labels)
    rows = selected(table, tmp_path / "q.parquet", "--by=strange", "--count=99")
    chosen = {row["image_id"]: row["strength"] for row in rows}
    index = read_index(table.uri, num_labels=len(labels), storage=Storage())
    shown = dict(zip(index.images["image_id"].to_pylist(), index.values["strangeness"].tolist(),
                     strict=True))  # fmt: skip
    assert len(shown) == 41
    assert max(shown.values()) > 1
    assert chosen == pytest.approx(shown, abs=1e-4)


def test_disagree_takes_an_agreement_or_the_other_table(table, tmp_path, monkeypatch):
    other = {**IMAGES, "low.jpg": Regions(shapes=[Shape("sky", SKY), Shape("boat", CAR)])}
    second = write_drawn_table(tmp_path / "b", other, labels=LABELS)
    shown = []

    class Noted(ProgressDisplay):
        def __exit__(self, *error):
            shown.append(self.line())
            super().__exit__(*error)

    monkeypatch.setattr("pipeline.comparison.measuring.ProgressDisplay", Noted)
    (now,) = selected(table, tmp_path / "q.parquet", "--by=disagree", f"--table_b={second.uri}")
    assert shown == ["48 of 52 images, 0 errors", "26 of 26 images, 0 errors"]
    assert run_job("compare", [table.uri, second.uri, f"--output={tmp_path / 'c'}"]) == 0
    (before,) = selected(
        table, tmp_path / "q.parquet", "--by=disagree", f"--agreement={tmp_path / 'c'}"
    )
    assert now == before
    assert now["image_id"] == "low.jpg"
    assert now["reasons"] == [
        "71.9 % of its area has the same label in both tables; largest change: car to boat, 28.1 %"
    ]


def test_the_same_seed_chooses_the_same_and_another_one_others(table, tmp_path):
    def ids(seed: int) -> list[str]:
        words = ("--by=random", "--count=8", f"--seed={seed}")
        return [row["image_id"] for row in selected(table, tmp_path / "q.parquet", *words)]

    assert ids(1) == ids(1)
    assert set(ids(1)) != set(ids(2))
    assert "error.jpg" not in {*ids(1), *ids(2), *ids(3)}


def test_reviewed_images_are_left_out(tmp_path, monkeypatch):
    table = write_drawn_table(tmp_path / "t", IMAGES, labels=LABELS)
    etag = Storage().file(str(tmp_path / "photos" / "close.jpg")).etag

    class Reviewed:
        def __init__(self, image_id: str, base_etag: str) -> None:
            self.image_id, self.base_etag = image_id, base_etag

    latest = [Reviewed("close.jpg", etag), Reviewed("low.jpg", "an older version")]
    monkeypatch.setattr(
        "pipeline.reviews.log.ReviewLog.latest_revisions", lambda self: iter(latest)
    )
    rows = selected(table, tmp_path / "q.parquet", "--by=unsure", "--count=1")
    assert rows[0]["image_id"] == "low.jpg"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by=disagree"], "needs one of --agreement and --table_b"),
        (["--by=unsure", "--table_b=x"], "with --by disagree alone"),
        (["--by=unsure", "--count=0"], "count must be at least 1"),
        (["--by=luck"], "by must be"),
    ],
)
def test_wrong_settings_of_a_selection_are_refused(table, tmp_path, capsys, words, message):
    assert run_job("select", [table.uri, f"--output={tmp_path / 'q.parquet'}", *words]) == 2
    assert message in capsys.readouterr().err


def put_corpus(folder):
    """Files, members of a tar and of a compressed one, rows of Parquet."""
    drawn = scenes(10)
    jpegs = [scene.jpeg for scene in drawn]
    members = [(f"d/{n}.v1.jpg", jpegs[n]) for n in range(4)]
    put(
        folder,
        {
            "a.jpg": jpegs[0], "b/c.jpg": jpegs[1], "x/shard.tar": tar(members),
            "packed.tar.gz": tar(members[:3], compressed=True),
            "rows.parquet": parquet({"image": jpegs[:5]}, rows_per_group=2),
        },
    )  # fmt: skip
    return str(folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_queue_is_a_corpus_of_exactly_its_images(tmp_path, seed):
    table = TableStore(str(tmp_path / "table"), Storage())
    place = put_corpus(tmp_path / "corpus")
    finish(settled(place, table, "first").units, table)
    rows = selected(table, tmp_path / "q.parquet", "--by=random", "--count=8", f"--seed={seed}")
    again = TableStore(str(tmp_path / "again"), Storage())
    plan = settled(str(tmp_path / "q.parquet"), again, "second", unit_images=100)
    images = [
        image
        for unit in plan.units
        for source in unit.sources
        for image in read_source(source, storage=Storage(), settings=ReadSettings())
    ]
    assert sorted(image.image_id for image in images) == sorted(row["image_id"] for row in rows)
    assert all(image.data for image in images)
    assert plan.num_images == len(rows) == 8
    # A plan made again knows all of them.
    finish(plan.units, again)
    assert settled(str(tmp_path / "q.parquet"), again, "third", unit_images=100).units == ()


def test_a_part_of_an_archive_that_changed_is_not_read(tmp_path):
    table = TableStore(str(tmp_path / "table"), Storage())
    place = put_corpus(tmp_path / "corpus")
    finish(settled(place, table, "first").units, table)
    rows = selected(table, tmp_path / "q.parquet", "--by=random", "--count=100")
    put(tmp_path / "corpus", {"x/shard.tar": tar([("new.jpg", encode_image(scenes(1)[0].photo))])})
    again = TableStore(str(tmp_path / "again"), Storage())
    plan = settled(str(tmp_path / "q.parquet"), again, "second")
    assert plan.num_images == len(rows) - 4
    assert plan.skipped.counts["changed since a manifest named a part of it"] == 4
