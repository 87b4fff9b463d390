"""What each format may hold: polygons, levels, several annotations, exports that left much out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from drawn_tables import draw_table, rewrite
from hypothesis import given, settings
from hypothesis import strategies as st
from import_files import brush_result, export, sizes_of, table_state, take
from PIL import Image
from pycocotools import mask as coco
from specs import panoptic_spec

from maskformer import decode_rle, encode_mask, encode_segments
from pipeline.exchange.importing.annotations import UnreadableFile
from pipeline.exchange.importing.json_elements import JsonElements
from pipeline.exchange.importing.label_studio import image_name
from pipeline.reviews.log import ReviewLog
from pipeline.storage import Storage

EMPTY, FULL = "a/0002.jpg", "a/0000.jpg"
OUTLINE = [1.2, 1.0, 7.5, 2.0, 6.0, 8.3, 2.1, 7.7]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return draw_table(str(tmp_path_factory.mktemp("t") / "table"), units=("a",)).uri


@pytest.fixture
def imported(table, tmp_path, capsys):
    """Imports a file; gives the state of one image."""

    def run(name: str, content: Any, *more: str, image: str = EMPTY, code: int = 0):
        file = tmp_path / "file"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana", *more)
        assert take(table, file, name, *asked) == code, capsys.readouterr().err
        rows = table_state(table, str(tmp_path / "r"))
        return [(label, rle) for label, rle, *_ in rows.get(image, [])]

    return run


def polygon_rle(size, *outlines):
    rles = coco.frPyObjects([[*outline] for outline in outlines], *size)
    return coco.merge(rles)["counts"].decode()


def cvat(size, *shapes: str, name: str = EMPTY) -> str:
    height, width = size
    return (
        f'<annotations><image id="0" name="{name}" width="{width}" height="{height}">'
        f"{''.join(shapes)}</image></annotations>"
    )


def test_polygons_of_all_formats_are_drawn_as_pycocotools_draws_them(table, imported):
    size = sizes_of(table)[EMPTY]
    expected = [("car", polygon_rle(size, OUTLINE))]
    image = {"id": "x", "file_name": EMPTY, "height": size[0], "width": size[1]}
    content = {
        "images": [image],
        "annotations": [{"image_id": "x", "category_id": 5, "segmentation": [OUTLINE]}],
        "categories": [{"id": 5, "name": "car"}],
    }
    assert imported("coco_instances", content) == expected
    points = ";".join(f"{x},{y}" for x, y in zip(OUTLINE[::2], OUTLINE[1::2], strict=True))
    shape = f'<polygon label="car" points="{points}" z_order="0"/>'
    assert imported("cvat", cvat(size, shape)) == expected
    shares = [
        [100 * x / size[1], 100 * y / size[0]]
        for x, y in zip(OUTLINE[::2], OUTLINE[1::2], strict=True)
    ]
    result = {
        "type": "polygonlabels", "original_width": size[1], "original_height": size[0],
        "value": {"points": shares, "closed": True, "polygonlabels": ["car"]},
    }  # fmt: skip
    task = {"data": {"image": f"/data/local-files/?d=photos/{EMPTY}"}}
    assert imported("label_studio", [{**task, "annotations": [{"result": [result]}]}]) == expected
    # An outline of several parts, and counts that are not compressed.
    content["annotations"][0]["segmentation"] = [OUTLINE, [0, 9, 3, 9, 3, 12]]
    both = polygon_rle(size, OUTLINE, [0, 9, 3, 9, 3, 12])
    assert imported("coco_instances", content) == [("car", both)]
    mask = decode_rle(both, height=size[0], width=size[1])
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
    counts = np.diff(edges, prepend=0, append=mask.size).tolist()
    content["annotations"][0]["segmentation"] = {"size": list(size), "counts": counts}
    assert imported("coco_instances", content) == [("car", both)]


def test_the_z_order_of_cvat_decides_which_shape_lies_on_top(table, imported):
    size = sizes_of(table)[EMPTY]
    full, part = np.zeros(size, bool), np.zeros(size, bool)
    full[1:5, 1:5], part[2:4, 3:8] = True, True

    def shape(label, left, top, width, height, level):
        runs = f'rle="0, {width * height}" left="{left}" top="{top}"'
        return f'<mask label="{label}" {runs} width="{width}" height="{height}" z_order="{level}"/>'

    car, tree = (1, 1, 4, 4), (3, 2, 5, 2)
    later_on_top = [("car", encode_mask(full & ~part)), ("tree", encode_mask(part))]
    earlier_on_top = [("car", encode_mask(full)), ("tree", encode_mask(part & ~full))]
    for levels, expected in (((0, 0), later_on_top), ((2, 1), earlier_on_top)):
        shapes = (shape("car", *car, levels[0]), shape("tree", *tree, levels[1]))
        assert sorted(imported("cvat", cvat(size, *shapes))) == expected


def test_images_of_several_tasks_of_a_project_of_cvat_are_told_apart(table, imported):
    """Takes tasks that each count their images from 0."""
    shape = '<mask label="car" rle="0, 4" left="1" top="1" width="2" height="2" z_order="0"/>'
    texts = [cvat(sizes_of(table)[name], shape, name=name) for name in (EMPTY, FULL)]
    parts = [text.removeprefix("<annotations>").removesuffix("</annotations>") for text in texts]
    meta = (
        "<meta><project><tasks><task><labels><label><name>car</name><attributes><attribute>"
        "<name>parked</name></attribute></attributes></label></labels></task></tasks></project>"
        "</meta>"
    )
    together = f"<annotations>{meta}{''.join(parts)}</annotations>"
    assert len(imported("cvat", together)) == 1
    assert len(imported("cvat", together, image=FULL)) == 1


def test_overlaps_of_label_studio_are_refused_unless_asked_for(table, imported, capsys):
    size = sizes_of(table)[EMPTY]
    low, high = np.zeros(size, bool), np.zeros(size, bool)
    low[1:5, 1:5], high[2:4, 3:8] = True, True
    result = [brush_result(low, "car"), brush_result(high, "tree")]
    tasks = [{"data": {"image": f"https://x.y/{EMPTY}?v=1"}, "annotations": [{"result": result}]}]
    assert imported("label_studio", tasks, code=3) == []
    assert "nothing says which lies on top: 1" in capsys.readouterr().err
    state = imported("label_studio", tasks, "--overlaps", "last_on_top")
    assert sorted(state) == [("car", encode_mask(low & ~high)), ("tree", encode_mask(high))]


def test_annotations_of_label_studio_go_before_predictions(table, imported):
    size = sizes_of(table)[EMPTY]
    mask, other = np.zeros(size, bool), np.zeros(size, bool)
    mask[1:3, 1:4], other[4:6, :2] = True, True
    prediction = {"result": [brush_result(other, "tree")], "model_version": "m"}
    task = {"data": {"image": EMPTY}, "predictions": [prediction]}
    assert imported("label_studio", [task]) == [("tree", encode_mask(other))]
    # A brush whose label is a result of its own, with the same id.
    brush = brush_result(mask, "car")
    del brush["value"]["brushlabels"]
    brush["type"] = "brush"
    label = {"id": "x1", "type": "labels", "value": {"labels": ["car"]}}
    task["annotations"] = [{"result": [brush, label]}]
    assert imported("label_studio", [task]) == [("car", encode_mask(mask))]
    # A person deleted everything.
    task["annotations"] = [{"result": []}]
    assert imported("label_studio", [task]) == []


def test_json_min_of_label_studio_is_read(table, imported):
    size = sizes_of(table)[EMPTY]
    mask = np.zeros(size, bool)
    mask[1:3, 1:4] = True
    region = brush_result(mask, "car")
    value = {
        **region["value"], "original_height": size[0], "original_width": size[1],
    }  # fmt: skip
    task = {"image": f"/data/upload/3/0a1b2c3d-{Path(EMPTY).name}", "id": 7, "label": [value]}
    assert imported("label_studio", [{**task, "annotator": 2, "lead_time": 1.5}]) == [
        ("car", encode_mask(mask))
    ]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/local-files/?d=images/a%20b/c.jpg", "images/a b/c.jpg"),
        ("/data/upload/12/0a1b2c3d-c.jpg", "c.jpg"),
        ("s3://bucket/photos/c%C3%BC.jpg", "photos/cü.jpg"),
        ("https://host/photos/c.jpg?X-Amz-Signature=1", "photos/c.jpg"),
        ("c.jpg", "c.jpg"),
    ],
)
def test_the_name_in_an_address_of_label_studio(address, name):
    assert image_name(address) == name


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("a/0002.jpg", True),
        ("a/0002.png", True),
        ("a/0002", True),
        ("images/default/a/0002.jpg", True),
        ("0002.jpg", True),
        ("0002.webp", True),
        ("b/0002.jpg", False),
        ("a/0002.jpg.bak", False),
        ("", False),
    ],
)
def test_images_are_found_by_name_where_no_other_is_meant(table, imported, name, is_found):
    size = sizes_of(table)[EMPTY]
    shape = '<mask label="car" rle="0, 4" left="1" top="1" width="2" height="2" z_order="0"/>'
    code = 0 if is_found else 2
    assert len(imported("cvat", cvat(size, shape, name=name), code=code)) == is_found


def test_a_name_without_folders_that_two_images_have_is_ambiguous(tmp_path, capsys):
    table = draw_table(str(tmp_path / "table"), units=("a", "b")).uri
    size = sizes_of(table)[EMPTY]
    file = tmp_path / "file.xml"
    file.write_text(cvat(size, name="0002.jpg"))
    assert take(table, file, "cvat") == 2
    assert "several images of the table may be meant: 1\n  0002.jpg" in capsys.readouterr().err


def test_segments_that_an_export_left_out_stay(table, tmp_path, capsys):
    """Guards against an import of the sure segments alone that would delete all others."""
    before = table_state(table)
    for number, selecting in enumerate(
        (["--labels", "car"], ["--min_score", "0.6"], ["--where", "area > 90"],
         ["--segments", "things"])
    ):  # fmt: skip
        out, reviews = tmp_path / f"out{number}", tmp_path / f"r{number}"
        asked = ("--reviews", str(reviews), "--reviewer", "ana")
        export(table, out, "coco_instances", *selecting)
        file = out / "annotations/instances_default.json"
        assert take(table, file, "coco_instances", *asked) == 0
        assert not reviews.exists(), selecting
        # Elsewhere the export is named; a segment that was in it is deleted, and one is drawn over
        # the others.
        content = json.loads(file.read_text())
        image = next(i for i in content["images"] if i["table_image_id"] == FULL)
        gone = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        content["annotations"] = [a for a in content["annotations"] if a not in gone]
        mask = np.zeros((image["height"], image["width"]), bool)
        mask[:3, :3] = True
        content["annotations"].append(
            {
                "id": 999, "image_id": image["id"], "category_id": 1,
                "segmentation": {"size": list(mask.shape), "counts": encode_mask(mask)},
            }
        )  # fmt: skip
        other = tmp_path / f"from-a-tool-{number}.json"
        other.write_text(json.dumps(content))
        assert take(table, other, "coco_instances", "--exported", str(out), *asked) == 0
        after = table_state(table, str(reviews))[FULL]
        rles = {each["segmentation"]["counts"] for each in gone}
        label = content["categories"][0]["name"]
        kept = [
            (label, decode_rle(rle, height=mask.shape[0], width=mask.shape[1]) & ~mask)
            for label, rle, *_ in before[FULL]
            if rle not in rles
        ]
        expected = [(label, encode_mask(left)) for label, left in kept if left.any()]
        assert [each[:2] for each in after] == [*expected, (label, encode_mask(mask))]
    capsys.readouterr()
    assert take(table, other, "coco_instances", "--exported", str(tmp_path)) == 2
    assert "there is no export.json" in capsys.readouterr().err


def test_label_maps_change_the_pixels_that_differ_and_keep_objects_apart(table, tmp_path):
    export(table, tmp_path / "out", "label_maps")
    before = table_state(table)[FULL]
    names = json.loads((tmp_path / "out/labels.json").read_text())["labels"]
    png = tmp_path / "out/annotations/a/0000.png"
    values = np.asarray(Image.open(png)).copy()
    values[:4, :4] = names.index("car")
    values[10:12, 10:12] = 255
    Image.fromarray(values).save(png)
    asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana")
    assert take(table, tmp_path / "out", "label_maps", *asked) == 0
    after = table_state(table, str(tmp_path / "r"))[FULL]
    size = {"height": values.shape[0], "width": values.shape[1]}
    found = np.full(values.shape, 255)
    for label, rle, *_ in after:
        found[decode_rle(rle, **size)] = names.index(label)
    assert (found == values).all()
    assert len(after) >= len(before)
    assert take(table, tmp_path / "out", "label_maps", *asked) == 0
    assert ReviewLog(str(tmp_path / "r"), Storage()).numbers(FULL) == [1]


def test_what_is_drawn_of_a_fused_label_joins_its_segment(table, imported):
    """A panoptic table has one sky in an image; two would be two objects to train on."""
    size = sizes_of(table)[EMPTY]
    masks = [np.zeros(size, bool) for _ in range(2)]
    masks[0][:2, :3], masks[1][5:7, :3] = True, True
    result = [brush_result(mask, "sky") for mask in masks]
    tasks = [{"data": {"image": EMPTY}, "annotations": [{"result": result}]}]
    expected = [("sky", encode_mask(masks[0] | masks[1]))]
    assert imported("label_studio", tasks) == expected
    assert imported("label_studio", tasks) == expected


def test_masks_of_a_table_of_instances_may_overlap(tmp_path, capsys):
    table = draw_table(str(tmp_path / "table"), units=("a",))
    table.storage.write(
        table.file("_table.json"),
        panoptic_spec("car", "sky", "tree", task="instance", label_ids_to_fuse=None)
        .to_json()
        .encode(),
    )

    def overlap(rows):
        """Lets the second segment of an image cover the first one's upper half too."""
        of_image = [row for row in rows if row["image_id"] == FULL]
        first, second = of_image[:2]
        size = {"height": first["height"], "width": first["width"]}
        mask = decode_rle(second["rle"], **size)
        mask[: size["height"] // 2] = True
        shapes = encode_segments(mask.view(np.uint8))
        second["rle"], second["area"] = shapes.rles[0], int(shapes.areas[0])
        box = shapes.boxes_xywh[0].tolist()
        second.update(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))

    rewrite(table, "segments/a.parquet", overlap)
    for name, file in (
        ("coco_instances", "annotations/instances_default.json"),
        ("coco_panoptic", "annotations/panoptic_default.json"),
        ("cvat", "annotations.xml"),
        ("label_studio", "tasks.json"),
    ):
        export(table.uri, tmp_path / name, name)
        asked = ("--reviews", str(tmp_path / "r"), "--reviewer", "ana")
        capsys.readouterr()
        assert take(table.uri, tmp_path / name / file, name, *asked) == 0
        assert "corrected: 0" in capsys.readouterr().out, name


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.lists(
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
                max_leaves=5,
            ),
            max_size=4,
        ),
        max_size=4,
    ),
    st.integers(1, 9),
    st.sampled_from([None, 1, "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=100, deadline=None)
def test_a_json_in_pieces_of_any_size_has_the_same_elements(content, size, indent, encoding):
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    data = text.encode(encoding)
    file = pa.BufferReader(data)
    found = [*JsonElements(file, uri="x", chunk_bytes=max(size, 2))]
    assert found == [(k, i, each) for k, values in content.items() for i, each in enumerate(values)]
    for cut in range(1, len(data) - len(data) % 2 - 2, 7):
        with pytest.raises(UnreadableFile):
            [*JsonElements(pa.BufferReader(data[:cut]), uri="x", chunk_bytes=size)]
