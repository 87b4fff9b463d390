"""Columns of images as data sets have them: dictionaries, lists, and paths in place of bytes."""

import pyarrow as pa
import pytest
from as_files import encode_table
from corpora import parquet, picture, put

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.planning.splitting import Cutter
from pipeline.runtime.skips import WITHOUT_LOCATIONS, SkipCounts
from pipeline.storage import Storage

STORAGE = Storage()
PHOTOS = [picture(number) for number in range(4)]
CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet_columns(columns: dict[str, pa.Array | list], **options) -> bytes:
    return encode_table(pa.table(columns), **options)


def read_corpus(corpus: str, **options) -> list[EncodedImage]:
    reading = ReadSettings(**options)
    return [
        image
        for source in list_corpus(corpus, storage=STORAGE, settings=reading).sources
        for image in read_source(source, storage=STORAGE, settings=reading)
    ]


def test_a_dictionary_encoded_column_is_read(tmp_path):
    column = pa.array([PHOTOS[0], PHOTOS[1], PHOTOS[0]]).dictionary_encode()
    root = put(tmp_path, {"a.parquet": parquet_columns({"image": column})})
    assert [image.data for image in read_corpus(root)] == [PHOTOS[0], PHOTOS[1], PHOTOS[0]]


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
@pytest.mark.parametrize("is_struct", [False, True])
def test_every_image_of_a_list_is_a_row(tmp_path, make, is_struct):
    cells = [{"bytes": photo, "path": None} for photo in PHOTOS] if is_struct else PHOTOS
    rows = [cells[:2], [], cells[2:3], None, [cells[3], None]]
    column = pa.array(rows, make(CELL if is_struct else pa.binary()))
    root = put(tmp_path, {"a.parquet": parquet_columns({"images": column, "id": list("vwxyz")})})
    images = read_corpus(root)
    assert [(image.image_id, image.data) for image in images] == [
        ("a.parquet/0/0", PHOTOS[0]),
        ("a.parquet/0/1", PHOTOS[1]),
        ("a.parquet/2/0", PHOTOS[2]),
        ("a.parquet/3", None),
        ("a.parquet/4/0", PHOTOS[3]),
        ("a.parquet/4/1", None),
    ]
    assert [image.error.error_class for image in images if image.error] == ["EmptyFile"] * 2
    keyed = [image.image_id for image in read_corpus(root, key_column="id")]
    assert keyed == ["v/0", "v/1", "x/0", "y", "z/0", "z/1"]


def test_a_row_whose_list_is_empty_is_counted(tmp_path):
    column = pa.array([[PHOTOS[0]], []], pa.list_(pa.binary()))
    root = put(tmp_path, {"a.parquet": parquet_columns({"images": column})})
    (source,) = list_corpus(root, storage=STORAGE, settings=ReadSettings()).sources
    told = SkipCounts()
    list(read_source(source, storage=STORAGE, settings=ReadSettings(), skipped=told))
    assert told.examples == {"a row with an empty list of images": [f"{root}/a.parquet, row 1"]}


def test_how_many_images_lists_hold_is_not_claimed_before_they_are_read(tmp_path):
    column = pa.array([PHOTOS[:2]] * 6, pa.list_(pa.binary()))
    data = parquet_columns({"images": column}, row_group_size=2)
    root = put(tmp_path, {"a.parquet": data})
    cutter = Cutter(storage=STORAGE, reading=ReadSettings())
    sources = list(list_corpus(root, storage=STORAGE, settings=ReadSettings()).sources)
    slices = list(cutter.slices(sources[0], max_images=2, max_bytes=10**9))
    assert [(s.start, s.stop, s.num_images) for s in slices] == [
        (0, 2, None), (2, 4, None), (4, None, None),
    ]  # fmt: skip
    (first,) = cutter.first_images(sources, limit=3, known={})
    assert (first.start, first.stop, first.num_images) == (0, 3, None)


def test_a_path_in_place_of_bytes_is_followed_from_the_file(tmp_path):
    outside = put(tmp_path / "outside", {"e.png": PHOTOS[3]})
    cells = [
        {"bytes": PHOTOS[0], "path": "a.png"},
        {"bytes": None, "path": "photos/b.png"},
        {"bytes": None, "path": "/data/of/another/machine/c.png"},
        {"bytes": b"", "path": "up/d.png"},
        {"bytes": None, "path": f"{outside}/e.png"},
        {"bytes": None, "path": "nowhere.png"},
        {"bytes": None, "path": "ipfs://x/y.png"},
        {"bytes": None, "path": None},
        None,
    ]
    root = put(
        tmp_path / "c",
        {
            "data/t.parquet": parquet_columns({"image": pa.array(cells, CELL)}),
            "data/photos/b.png": PHOTOS[1],
            "data/machine/c.png": PHOTOS[2],
            "up/d.png": PHOTOS[2],
        },
    )
    images = read_corpus(f"{root}/data/t.parquet")
    assert [image.data for image in images] == [
        PHOTOS[0], PHOTOS[1], PHOTOS[2], PHOTOS[2], PHOTOS[3], None, None, None, None,
    ]  # fmt: skip
    assert [image.error.error_class for image in images[5:]] == ["EmptyFile"] * 4
    assert "'nowhere.png' leads to no file" in images[5].error.message
    assert images[6].error.message.startswith(f"{root}/data/t.parquet, row 6: ")


def test_the_name_alone_of_a_path_of_another_machine_is_no_image(tmp_path):
    """Below other folders it names other images: none is better than that of another row."""
    cells = [{"bytes": None, "path": f"/data/{kind}/0.png"} for kind in ("cat", "dog")]
    table = parquet_columns({"image": pa.array(cells, CELL)})
    root = put(tmp_path, {"t.parquet": table, "0.png": PHOTOS[0], "dog/0.png": PHOTOS[1]})

    cat, dog = read_corpus(f"{root}/t.parquet")

    assert cat.error.error_class == "EmptyFile"
    assert dog.data == PHOTOS[1]


def test_a_hub_cache_gives_the_images_that_its_snapshots_name(tmp_path):
    """Links to blobs without an ending; a row without bytes has the path of another machine."""
    cells = [{"bytes": PHOTOS[0], "path": "a.png"}, {"bytes": None, "path": "/data/b.png"}, None]
    cells.append({"bytes": None, "path": "photos/c.png"})
    root = put(
        tmp_path,
        {"blobs/5d3e": parquet_columns({"image": pa.array(cells, CELL)}), "blobs/9a": PHOTOS[1]},
    )
    snapshot = tmp_path / "snapshots" / "abc"
    for name, blob in (("data/train.parquet", "5d3e"), ("photos/c.png", "9a")):
        link = snapshot / name
        link.parent.mkdir(parents=True)
        link.symlink_to(f"../../../blobs/{blob}")
    listing = list_corpus(root, storage=STORAGE, settings=ReadSettings())
    parquet_file, photo = listing.sources
    assert listing.skipped.counts == {"of no known kind": 2}
    images = list(read_source(parquet_file, storage=STORAGE, settings=ReadSettings()))
    assert [image.image_id for image in images] == [
        f"snapshots/abc/data/train.parquet/{row}" for row in range(4)
    ]
    assert [image.data for image in images] == [PHOTOS[0], None, None, PHOTOS[1]]
    assert [image.error and image.error.error_class for image in images] == [
        None, "EmptyFile", "EmptyFile", None,
    ]  # fmt: skip
    assert "'/data/b.png' leads to no file" in images[1].error.message
    assert photo.name == "snapshots/abc/photos/c.png"


def test_a_file_behind_a_path_may_be_too_large_too(tmp_path):
    cells = pa.array([{"bytes": None, "path": "b.png"}], CELL)
    root = put(tmp_path, {"t.parquet": parquet_columns({"image": cells}), "b.png": bytes(11)})
    (image,) = read_corpus(f"{root}/t.parquet", max_image_bytes=10)
    assert image.error.error_class == "TooLarge"


def test_a_column_of_other_bytes_is_not_taken_for_images(tmp_path):
    """Covers files like img2dataset's embeddings, which lie beside its tars."""
    data = parquet({"url": ["http://127.0.0.1:1/a.jpg"] * 2, "embedding": [b"\xa9\xcc" * 9, None]})
    root = put(tmp_path, {"00000.parquet": data, "b.jpg": PHOTOS[0]})
    listing = list_corpus(root, storage=STORAGE, settings=ReadSettings())
    assert [source.name for source in listing.sources] == ["b.jpg"]
    assert listing.skipped.examples == {WITHOUT_LOCATIONS: [f"{root}/00000.parquet"]}
    named = ReadSettings(image_column="embedding")
    sources = list_corpus(root, storage=STORAGE, settings=named).sources
    assert [source.name for source in sources] == ["00000.parquet", "b.jpg"]


def test_a_column_of_images_may_have_any_name(tmp_path):
    root = put(tmp_path, {"a.parquet": parquet({"foto": [None, PHOTOS[0]], "n": [1, 2]})})
    assert [image.data for image in read_corpus(root)] == [None, PHOTOS[0]]


def test_null_is_no_key_and_an_empty_text_is_one(tmp_path):
    rows = {"image": PHOTOS, "id": ["x", None, "", None]}
    root = put(tmp_path, {"a.parquet": parquet(rows)})
    images = read_corpus(root, key_column="id")
    assert [image.image_id for image in images] == ["x", "a.parquet/1", "", "a.parquet/3"]
    assert [image.data for image in images] == PHOTOS
