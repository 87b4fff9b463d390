"""What an import does not take: lists with names, exit codes, nothing half written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from import_files import (
    DELETED,
    DRAWN,
    RELABELLED,
    brush_result,
    drawn_mask,
    export,
    sizes_of,
    table_state,
    take,
)
from PIL import Image

from maskformer import encode_mask
from pipeline.reviews.log import ReviewLog
from pipeline.runtime.progress import FileProgress
from pipeline.storage import Storage


@pytest.fixture(scope="module")
def exported(table, tmp_path_factory):
    root = tmp_path_factory.mktemp("exports")
    for name in ("coco_instances", "coco_panoptic", "cvat", "label_studio"):
        export(table, root / name, name)
    return root


class Attempt:
    """An import of a changed file into reviews of its own."""

    def __init__(self, table: str, exported: Path, folder: Path, capsys) -> None:
        self.table, self.exported, self.folder, self.capsys = table, exported, folder, capsys
        self.reviews = str(folder / "reviews")

    def json(self, name, file, change):
        """Copies an export, changes its JSON, and imports it."""
        place = self.copy(name) / file
        content = json.loads(place.read_text())
        change(content)
        place.write_text(json.dumps(content))
        return self.take(name, place)

    def copy(self, name) -> Path:
        if not (self.folder / name).exists():
            shutil.copytree(self.exported / name, self.folder / name)
        return self.folder / name

    def take(self, name, place, *more):
        self.capsys.readouterr()
        code = take(self.table, place, name, "--reviews", self.reviews, "--reviewer", "ana", *more)
        self.out, self.err = self.capsys.readouterr()
        return code

    @property
    def files(self):
        return sorted(Path(self.reviews).rglob("*.parquet"))


@pytest.fixture
def attempt(table, exported, tmp_path, capsys):
    return Attempt(table, exported, tmp_path, capsys)


INSTANCES = "annotations/instances_default.json"
PANOPTIC = "annotations/panoptic_default.json"


def first_of(content, image_id=RELABELLED):
    number = next(i["id"] for i in content["images"] if i["table_image_id"] == image_id)
    return next(a for a in content["annotations"] if a["image_id"] == number)


def break_size(content):
    first_of(content)["segmentation"]["size"].reverse()


def break_counts(content):
    first_of(content)["segmentation"]["counts"] += "5"


def new_label(content):
    content["categories"].append({"id": 77, "name": "Straße, nass"})
    first_of(content)["category_id"] = 77


def no_category(content):
    first_of(content)["category_id"] = 78


def crowd(content):
    first_of(content)["iscrowd"] = 1


def box_only(content):
    first_of(content)["segmentation"] = []


def overlap(content):
    annotation = first_of(content)
    content["annotations"].append({**annotation, "id": 4711})


def bad_polygon(content):
    first_of(content)["segmentation"] = [[1, 2, 3]]


def share_polygon(content):
    first_of(content)["segmentation"] = [[0.1, 0.1, 0.9, 0.1, 0.5, 0.9]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (break_size, "no mask: 1\n  a/0000.jpg (region 1: size of its rle must be [24, 22]"),
        (break_counts, "the counts of an rle must add up"),
        (new_label, "with a label that the table does not have: 1\n  a/0000.jpg (Straße, nass)"),
        (no_category, "with a category that the file does not list: 1\n  a/0000.jpg (id 78)"),
        (crowd, "is a crowd"),
        (box_only, "has no segmentation, only a box"),
        (overlap, "with masks that overlap, and nothing says which lies on top: 1\n  a/0000.jpg ("),
        (bad_polygon, "must have a y for each x"),
        (share_polygon, "must be in pixels, not in shares of the image"),
    ],
)
def test_an_annotation_that_cannot_be_taken_leaves_its_image_out(attempt, change, says):
    def both(content):
        change(content)
        # Another image is changed in a way that can be taken.
        other = first_of(content, DELETED)
        other["category_id"] = 1 + other["category_id"] % 3

    assert attempt.json("coco_instances", INSTANCES, both) == 3
    assert says in attempt.err
    assert "as before: 13; corrected: 1" in attempt.out
    assert len(attempt.files) == 1


def test_images_that_do_not_match_are_listed_with_their_names(attempt):
    def change(content):
        by_id = {image["table_image_id"]: image for image in content["images"]}
        for name, key, value in (
            ("a/0000.jpg", "height", 9),
            ("a/0001.jpg", "table_etag", "another"),
            ("a/0003.jpg", "table_image_id", "not/there.jpg"),
        ):
            by_id[name][key] = value
        content["images"].append({**by_id["b/0000.jpg"]})
        content["images"].append({**by_id["b/0001.jpg"], "id": 90})
        content["annotations"].append({"image_id": 91, "category_id": 1, "segmentation": []})
        first_of(content, "c/0000.jpg")["category_id"] = 1 + first_of(content)["category_id"] % 3

    file = attempt.folder / "findings.jsonl"
    attempt.take_more = ()
    assert attempt.json("coco_instances", INSTANCES, change) == 3
    for line in (
        "not taken, of another size: 1\n  a/0000.jpg (9 x 22, in the table 24 x 22",
        "not taken, stale, the photograph has changed since: 1\n  a/0001.jpg",
        "not taken, not in the table: 1\n  a/0003.jpg",
        "not taken, listed twice in the file: 1\n  b/0000.jpg (id ",
        "not taken, of an image that the file has twice: 2\n  b/0001.jpg (b/0001.jpg)",
        "an image that the file does not list: 1\n  image 91 (1 annotations)",
    ):
        assert line in attempt.err
    place = attempt.folder / "coco_instances" / INSTANCES
    assert attempt.take("coco_instances", place, "--findings", str(file)) == 3
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(listed) == 7
    assert {"finding": "not in the table", "name": "a/0003.jpg", "detail": ""} in listed


def test_a_file_of_another_table_is_wrong_usage(attempt):
    def change(content):
        for image in content["images"]:
            image["table_image_id"] += "?"

    assert attempt.json("coco_instances", INSTANCES, change) == 2
    assert "not in the table: 15" in attempt.err
    assert "no image of" in attempt.err


@pytest.mark.parametrize(
    ("name", "file", "share", "says"),
    [
        ("coco_instances", INSTANCES, 0.7, "is cut off"),
        ("coco_instances", INSTANCES, 0, "is empty"),
        ("coco_panoptic", PANOPTIC, 0.99, "is cut off"),
        ("label_studio", "tasks.json", 0.5, "is cut off"),
        ("cvat", "annotations.xml", 0.8, "is cut off"),
        ("cvat", "annotations.xml", 0.01, "is cut off"),
    ],
)
def test_a_file_that_is_cut_off_leaves_nothing(attempt, name, file, share, says):
    place = attempt.copy(name) / file
    data = place.read_bytes()
    place.write_bytes(data[: int(share * len(data))])
    assert attempt.take(name, place) == 2
    assert says in attempt.err
    assert str(place) in attempt.err
    assert attempt.err.count("\n") == 1
    assert not attempt.files


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("coco_instances", "[1, 2]", "must be COCO's JSON"),
        ("coco_instances", '{"images": [{"file_name": "x"}]}', "images[0] must have id"),
        ("coco_instances", '{"images": [3]}', "images[0] must be an object"),
        ("coco_instances", '{"images": [] "annotations"', "must have a comma or }"),
        ("coco_instances", "[" * 100_000, "JSON"),
        ("coco_instances", '{"images": [\xff]}', "must be text in UTF-8"),
        ("coco_panoptic", '{"images": [], "annotations": [], "categories": []}', "must be COCO's"),
        ("label_studio", '{"images": [1]}', "must be Label Studio's JSON"),
        ("label_studio", '[{"data": {"image": "a"}}]', "neither an annotation nor a prediction"),
        ("cvat", "<annotation/>", "must be CVAT's XML"),
        ("cvat", "<annotations><track/></annotations>", "tracks of a video"),
        ("cvat", "<annotations><image id='0'/></annotations>", "<image> must have name"),
        ("cvat", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "must have no DOCTYPE"),
        ("cvat", "{}", "must be XML"),
        ("cvat", "PK\x03\x04", "is a ZIP; unpack it"),
    ],
)
def test_a_file_of_another_format_says_so(attempt, name, content, says):
    place = attempt.folder / "file"
    place.write_bytes(content.encode("latin-1"))
    assert attempt.take(name, place) == 2
    assert says in attempt.err
    assert attempt.err.count("\n") == 1


def test_a_file_that_is_not_there_and_a_table_that_is_none(attempt, tmp_path):
    assert attempt.take("cvat", tmp_path / "no.xml") == 2
    assert "there is no file" in attempt.err
    attempt.table = str(tmp_path)
    assert attempt.take("cvat", attempt.copy("cvat") / "annotations.xml") == 2
    assert "is no segment table" in attempt.err


def test_maps_that_do_not_fit_their_description_are_listed(attempt):
    folder = attempt.copy("coco_panoptic") / "annotations/panoptic_default"
    (folder / "a/0001.png").unlink()
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(folder / "a/0003.png")
    (folder / "b/0000.png").write_bytes(b"no png")
    other = np.asarray(Image.open(folder / "b/0001.png")).copy()
    other[0, 0] = 77
    Image.fromarray(other).save(folder / "b/0001.png")

    def change(content):
        number = next(i["id"] for i in content["images"] if i["table_image_id"] == "b/0003.jpg")
        [entry] = [a for a in content["annotations"] if a["image_id"] == number]
        entry["segments_info"].append({"id": 78, "category_id": 1})

    assert attempt.json("coco_panoptic", PANOPTIC, change) == 3

    for says in (
        "a/0001.jpg (there is no file",
        "has 3 x 3, in the table",
        "b/0000.jpg (",
        "id 5066061 of the map is not in segments_info",
        "segment 78 has no pixel in the map",
    ):
        assert says in attempt.err, says
    assert "as before: 10; corrected: 0" in attempt.out


def test_masks_of_cvat_outside_of_the_image_and_shapes_without_a_mask_are_listed(attempt):
    place = attempt.copy("cvat") / "annotations.xml"
    text = place.read_text()
    box = '<box label="car" occluded="0" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0"></box>'
    for name, shape in (
        ("a/0002.jpg", box),
        ("b/0002.jpg", '<mask label="car" rle="0, 4" left="-1" top="0" width="2" height="2"/>'),
        ("c/0002.jpg", '<mask label="car" rle="0, 3" left="0" top="0" width="2" height="2"/>'),
        ("c/0001.jpg", '<polygon label="car" points="1,1;x,3"/>'),
    ):
        at = text.index("</image>", text.index(f'"{name}"'))
        text = f"{text[:at]}{shape}{text[at:]}"
    place.write_text(text)
    assert attempt.take("cvat", place) == 3
    for says in (
        "a/0002.jpg (region <box> is no mask and no polygon; draw it as one, or delete it)",
        "b/0002.jpg (region <mask>: its box must lie in the image",
        "c/0002.jpg (region <mask>: rle must fill its box of 2x2",
        "c/0001.jpg (region <polygon> has points that are no numbers",
    ):
        assert says in attempt.err, says


def test_regions_of_label_studio_that_are_no_mask_are_listed(attempt):
    def change(tasks):
        by_id = {task["data"]["table_image_id"]: task for task in tasks}

        def annotate(name, change):
            task = by_id[name]
            result = json.loads(json.dumps(task["predictions"][0]["result"]))
            change(result)
            task["annotations"] = [{"result": result, "completed_by": 3}]

        annotate("a/0000.jpg", lambda r: r[0]["value"]["rle"].pop(2))
        annotate("a/0001.jpg", lambda r: r[0].update(original_width=3))
        annotate("a/0003.jpg", lambda r: r[0]["value"].update(rle=[1, 300]))
        annotate("b/0000.jpg", lambda r: r[0]["value"].pop("brushlabels"))
        value = {"x": 1, "y": 1, "width": 2, "height": 2, "rectanglelabels": ["car"]}
        annotate("b/0001.jpg", lambda r: r.append({"type": "rectanglelabels", "value": value}))
        # A choice about the whole image is no region.
        choice = {"type": "choices", "value": {"choices": ["blurred"]}}
        annotate("b/0003.jpg", lambda r: r.append(choice))

    assert attempt.json("label_studio", "tasks.json", change) == 3
    for name in ("a/0000.jpg", "a/0001.jpg", "a/0003.jpg", "b/0000.jpg", "b/0001.jpg"):
        assert f"  images/{name} (region" in attempt.err
    assert "b/0003.jpg" not in attempt.err


def test_a_review_since_the_export_stays_and_disjoint_changes_are_joined(attempt, table):
    """Keeps what another reviewer did since the export."""

    def delete_first(content):
        content["annotations"].remove(first_of(content))

    def change_last(content):
        image = first_of(content)["image_id"]
        last = [a for a in content["annotations"] if a["image_id"] == image][-1]
        last["category_id"] = 1 + last["category_id"] % 3

    def keep_first(content):
        first_of(content)["category_id"] = 1 + first_of(content)["category_id"] % 3

    assert attempt.json("coco_instances", INSTANCES, delete_first) == 0
    shutil.rmtree(attempt.folder / "coco_instances")
    assert attempt.json("coco_instances", INSTANCES, change_last) == 0
    assert "joined with what others changed meanwhile: 1 image" in attempt.out
    log = ReviewLog(attempt.reviews, Storage())
    newest = log.latest(RELABELLED)
    assert newest is not None
    assert newest.revision == 2
    before = table_state(table)[RELABELLED]
    assert len(newest.segments) == len(before) - 1
    assert newest.segments[-1].label != before[-1][0]

    # Sent again: nothing. The same segment changed by both: a conflict, and both are kept.
    place = attempt.folder / "coco_instances" / INSTANCES
    assert attempt.take("coco_instances", place) == 0
    assert "corrected: 0" in attempt.out
    shutil.rmtree(attempt.folder / "coco_instances")
    assert attempt.json("coco_instances", INSTANCES, keep_first) == 3
    assert "in conflict with a review since the export: 1\n  a/0000.jpg (revision 2 of ana" in (
        attempt.err
    )
    assert log.numbers(RELABELLED) == [1, 2]
    assert len(log.branches(RELABELLED)) == 1


def test_a_stale_review_counts_for_nothing(attempt, table):
    """The photograph changed after a review: the file is compared with the model's rows."""
    sizes = sizes_of(table)
    state = table_state(table)

    def drawn(tasks):
        [task] = [task for task in tasks if task["data"]["table_image_id"] == DRAWN]
        result = [brush_result(drawn_mask(sizes[DRAWN]), "car")]
        task["annotations"] = [{"result": result}]

    assert attempt.json("label_studio", "tasks.json", drawn) == 0
    log = ReviewLog(attempt.reviews, Storage())
    stale = log.history(DRAWN)[0].replace(base_etag="of another photograph", submission="another")
    shutil.rmtree(attempt.reviews)
    log = ReviewLog(attempt.reviews, Storage())
    log.append(stale)
    place = attempt.folder / "label_studio" / "tasks.json"
    assert attempt.take("label_studio", place) == 0
    assert "corrected: 1" in attempt.out
    assert log.numbers(DRAWN) == [1, 2]
    newest = log.latest(DRAWN)
    assert newest is not None
    assert newest.parent_revision == 0
    assert newest.segments[0].rle == encode_mask(drawn_mask(sizes[DRAWN]))
    assert DRAWN not in state


@pytest.mark.parametrize(
    ("name", "file"),
    [("coco_instances", INSTANCES), ("cvat", "annotations.xml"), ("label_studio", "tasks.json")],
)
def test_a_file_is_read_with_progress_to_its_end(attempt, monkeypatch, name, file):
    shares, add = [], FileProgress.add

    def noted(self, num_bytes):
        add(self, num_bytes)
        shares.append(self.share)

    monkeypatch.setattr(FileProgress, "add", noted)
    assert attempt.take(name, attempt.copy(name) / file) == 0
    assert shares == sorted(shares)
    assert (shares[0] > 0, shares[-1]) == (True, 1)
