"""Photographs: found in every kind of source, upright, and refused where they have changed."""

import contextlib
import io
import tarfile

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from page_clients import opened_page, submission, with_label
from photo_tables import box_photo, encoded, label_corpus, make_table, write_corpus
from PIL import Image

from pipeline.corpora.settings import ReadSettings
from pipeline.review_page.cache import ByteCache
from pipeline.review_page.pictures import PictureMaker, outlines, sampled_ids
from pipeline.reviews.shapes import rle_of_mask
from pipeline.storage import Storage


def shown(client, image_id: str, **params: object) -> np.ndarray:
    answer = client.get("/api/photo", image_id=image_id, **params)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB")).astype(int)


def is_photo(pixels: np.ndarray, number: int, *, tolerance: int = 12) -> bool:
    return np.abs(pixels - np.asarray(box_photo(number)).astype(int)).mean() < tolerance


def all_shown(table: str, count: int, **options: object) -> None:
    """Asks for every photograph, the last one first, and compares it with what was drawn."""
    with opened_page(table, **options) as (client, _):
        images = client.get("/api/images", sort="name").json["images"]
        assert len(images) == count
        for number, image in reversed([*enumerate(images)]):
            assert is_photo(shown(client, image["image_id"]), number), image["image_id"]


@pytest.mark.parametrize("kind", ["files", "tar", "parquet"])
def test_every_photograph_of_every_kind_of_source_is_found(tmp_path, kind):
    table = make_table(tmp_path, kind=kind, count=8, unit_images=3)
    all_shown(table.uri, 8)


def test_a_corpus_that_has_moved_is_read_from_its_new_folder(tmp_path):
    for kind in ("files", "tar", "parquet"):
        table = make_table(tmp_path / kind, kind=kind, count=2)
        (tmp_path / kind / "corpus").rename(tmp_path / kind / "moved")
        with opened_page(table.uri) as (client, _):
            image_id = client.get("/api/images").json["images"][0]["image_id"]
            answer = client.get("/api/photo", image_id=image_id)
            assert answer.status == 410
            assert "--image_root" in answer.json["error"]
        all_shown(table.uri, 2, image_root=str(tmp_path / kind / "moved"))


def test_a_photograph_that_has_changed_since_is_not_shown_under_old_segments(tmp_path):
    table = make_table(tmp_path, count=2)
    Storage().write(f"{tmp_path}/corpus/001.jpg", encoded(box_photo(5)))
    with opened_page(table.uri) as (client, _):
        answer = client.get("/api/thumbnail", image_id="001.jpg")
        assert answer.status == 410
        assert "has changed since it was segmented" in answer.json["error"]
        assert client.get("/api/segments", image_id="001.jpg").status == 200


def test_archives_with_links_folders_and_compression_are_read_as_in_the_job(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for ending in ("tar", "tar.gz"):
        mode = "w:gz" if ending.endswith("gz") else "w"
        with tarfile.open(folder / f"shard.{ending}", mode) as archive:
            for number, name in enumerate(["a/x.jpg", "b/x.jpg", "c.v2.jpg"]):
                data = encoded(box_photo(number))
                for member_name, content in ((name, data), (f"{name[:-4]}.json", b"{}")):
                    member = tarfile.TarInfo(member_name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            link = tarfile.TarInfo("d.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "a/x.jpg"
            archive.addfile(link)
    table = label_corpus(str(folder), f"{tmp_path}/table", unit_images=100)
    with opened_page(table.uri) as (client, _):
        images = client.get("/api/images", sort="name").json["images"]
        keys = ["a/x", "b/x", "c.v2", "d"]
        expected = [f"shard.{ending}/{key}" for ending in ("tar", "tar.gz") for key in keys]
        assert sorted(image["image_id"] for image in images) == sorted(expected)
        for image_id in expected[::-1]:
            number = {"a/x": 0, "b/x": 1, "c.v2": 2, "d": 0}[image_id.split("/", 1)[1]]
            assert is_photo(shown(client, image_id), number), image_id


def test_rows_with_keys_lists_and_paths_are_read_as_in_the_job(tmp_path):
    photos = [encoded(box_photo(number)) for number in range(4)]
    write_corpus(f"{tmp_path}/keys", kind="parquet", count=4, storage=Storage())
    reading = ReadSettings(key_column="key")
    table = label_corpus(f"{tmp_path}/keys", f"{tmp_path}/t1", reading=reading)
    with opened_page(table.uri, reading=reading) as (client, _):
        assert is_photo(shown(client, "002"), 2)
    with opened_page(table.uri) as (client, _):
        answer = client.get("/api/photo", image_id="no row of this")
        assert answer.status == 404
    (tmp_path / "lists").mkdir()
    lists = pa.table({"images": [photos[:2], [photos[2]]]})
    pq.write_table(lists, tmp_path / "lists" / "rows.parquet")
    table = label_corpus(f"{tmp_path}/lists", f"{tmp_path}/t2")
    with opened_page(table.uri) as (client, _):
        assert is_photo(shown(client, "rows.parquet/0/1"), 1)
        assert is_photo(shown(client, "rows.parquet/1/0"), 2)


def test_the_images_of_a_manifest_are_found_under_their_own_ids(tmp_path):
    write_corpus(f"{tmp_path}/photos", kind="files", count=2, storage=Storage())
    manifest = "uri,image_id\nphotos/000.jpg,first\nphotos/001.jpg,second\n"
    Storage().write(f"{tmp_path}/list.csv", manifest.encode())
    table = label_corpus(f"{tmp_path}/list.csv", f"{tmp_path}/table")
    with opened_page(table.uri) as (client, _):
        assert is_photo(shown(client, "first"), 0)
        assert is_photo(shown(client, "second"), 1)


def test_photographs_are_upright_whatever_the_camera_noted(tmp_path):
    back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    for orientation, operation in back.items():
        turned = box_photo(3) if operation is None else box_photo(3).transpose(operation)
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(turned, exif=exif.tobytes())
        Storage().write(f"{tmp_path}/corpus/{orientation}.jpg", data)
    table = label_corpus(f"{tmp_path}/corpus", f"{tmp_path}/table")
    with opened_page(table.uri) as (client, _):
        for orientation in back:
            answer = client.get("/api/photo", image_id=f"{orientation}.jpg")
            picture = Image.open(io.BytesIO(answer.body))
            assert picture.getexif().get(0x0112, 1) == 1
            assert is_photo(np.asarray(picture).astype(int), 3), orientation


def test_a_photograph_in_the_grid_of_any_mode_is_rgb(tmp_path):
    for name, image, kind in (
        ("grey.png", box_photo(0).convert("L"), "PNG"),
        ("palette.png", box_photo(0).convert("P"), "PNG"),
        ("cmyk.jpg", box_photo(0).convert("CMYK"), "JPEG"),
        ("page.tiff", box_photo(0), "TIFF"),
    ):
        Storage().write(f"{tmp_path}/corpus/{name}", encoded(image, kind=kind))
    table = label_corpus(f"{tmp_path}/corpus", f"{tmp_path}/table")
    with opened_page(table.uri) as (client, _):
        for image in client.get("/api/images").json["images"]:
            data = client.get("/api/thumbnail", image_id=image["image_id"]).body
            assert Image.open(io.BytesIO(data)).mode == "RGB"


def test_large_photographs_come_smaller_on_request(tmp_path):
    big = encoded(box_photo(1, height=1200, width=1800))
    Storage().write(f"{tmp_path}/corpus/big.jpg", big)
    table = label_corpus(f"{tmp_path}/corpus", f"{tmp_path}/table")
    with opened_page(table.uri) as (client, _):
        assert shown(client, "big.jpg").shape == (1200, 1800, 3)
        assert shown(client, "big.jpg", size=900).shape == (600, 900, 3)
        assert shown(client, "big.jpg", size=9000).shape == (1200, 1800, 3), "never larger"
        assert client.get("/api/photo", image_id="big.jpg", size=3).status == 400


def test_a_thumbnail_shows_the_segments_on_request_and_those_of_the_newest_review(tmp_path):
    table = make_table(tmp_path, count=1)
    with opened_page(table.uri) as (client, _):

        def thumbnail(**params: object) -> np.ndarray:
            answer = client.get("/api/thumbnail", image_id="000.jpg", **params)
            return np.asarray(Image.open(io.BytesIO(answer.body))).astype(int)

        plain, overlaid = thumbnail(overlay=0), thumbnail(overlay=1)
        assert plain.shape == overlaid.shape == (60, 90, 3)
        assert is_photo(plain, 0)
        field = np.s_[45:55, 40:80]
        assert np.abs(plain[field] - overlaid[field]).mean() > 10
        etag = client.get("/api/thumbnail", image_id="000.jpg").headers["ETag"]
        again = client.get("/api/thumbnail", image_id="000.jpg", headers={"If-None-Match": etag})
        assert (again.status, again.body) == (304, b"")
        state = client.get("/api/segments", image_id="000.jpg").json
        client.post("/api/revisions", submission(state, segments=with_label(state, 2, "car")))
        changed = client.get("/api/thumbnail", image_id="000.jpg", headers={"If-None-Match": etag})
        assert changed.status == 200
        assert np.abs(thumbnail()[field] - overlaid[field]).mean() > 10


def test_a_decoder_that_ends_is_replaced_and_the_next_photograph_is_shown(tmp_path):
    table = make_table(tmp_path, count=2)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    own = PictureMaker(ReadSettings(), num_children=1)
    with contextlib.closing(own), opened_page(table.uri, decoder=own) as (client, _):
        assert is_photo(shown(client, "000.jpg"), 0)
        children = psutil.Process().children(recursive=True)
        (decoder,) = [child for child in children if child.pid not in before]
        decoder.kill()
        answer = client.get("/api/photo", image_id="001.jpg")
        assert answer.status == 422
        assert "killed" in answer.json["error"]
        assert is_photo(shown(client, "001.jpg"), 1)


def test_segments_are_scaled_by_looking_up_pixels_of_their_masks():
    random = np.random.default_rng(1)
    ids = random.integers(0, 4, (37, 53))
    ids = np.kron(ids, np.ones((3, 2), int))
    rles = [rle_of_mask(ids == number) for number in (1, 2, 3)]
    height, width = ids.shape
    same = sampled_ids(rles, height=height, width=width, to_height=height, to_width=width)
    assert (same == ids).all()
    small = sampled_ids(rles, height=height, width=width, to_height=37, to_width=53)
    assert (small == ids[1::3, 1::2]).all()
    empty = sampled_ids([], height=height, width=width, to_height=5, to_width=7)
    assert empty.shape == (5, 7)
    assert not empty.any()


def test_outlines_lie_inside_segments_where_another_or_none_begins():
    ids = np.array([[0, 1, 1, 1], [0, 1, 1, 2], [0, 1, 1, 2]])
    assert outlines(ids).astype(int).tolist() == [[0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 1, 1]]


def test_the_cache_forgets_the_longest_unused_and_never_holds_more_than_its_bound():
    cache = ByteCache(most_bytes=100)
    for name in "abcd":
        cache.put(name, bytes(30))
        cache.get("a")
    assert cache.num_bytes == 90
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    cache.put("a", bytes(10))
    assert cache.num_bytes == 70
    cache.put("huge", bytes(101))
    assert cache.get("huge") is None
    assert cache.num_bytes == 70
