"""Slices of a source are within bounds, cover it, and hold together what it holds whole."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
from corpora import parquet, put, tar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Kind, Source
from pipeline.planning.splitting import Cutter
from pipeline.storage import SourceChanged, Storage

STORAGE = Storage()
READING = ReadSettings()
CUTTER = Cutter(storage=STORAGE, reading=READING)


def source(folder: Path, name: str, data: bytes, *, kind: Kind = "tar") -> Source:
    root = put(folder, {name: data})
    file = STORAGE.file(f"{root}/{name}")
    assert file is not None
    return Source(uri=file.uri, name=name, kind=kind, etag=file.etag, size=file.size)


def images_of_sources(*sources: Source) -> list[EncodedImage]:
    return [
        image for each in sources for image in read_source(each, storage=STORAGE, settings=READING)
    ]


def comparable(*sources: Source) -> list[tuple[str, bytes | None, str | None]]:
    """Returns what is compared of an image: errors are equal where they say the same."""
    return [
        (image.image_id, image.data, str(image.error) if image.error else None)
        for image in images_of_sources(*sources)
    ]


def slices(whole: Source, *, max_images: int = 10**6, max_bytes: int = 10**9) -> list[Source]:
    return list(CUTTER.slices(whole, max_images=max_images, max_bytes=max_bytes))


def check_cover(whole: Source, parts: list[Source]) -> None:
    """The slices follow each other from the beginning to the open end, and nothing is lost."""
    assert (parts[0].start, parts[-1].stop) == (whole.start, whole.stop)
    for before, after in pairwise(parts):
        assert before.stop == after.start
    assert comparable(*parts) == comparable(whole)
    for part in parts:
        assert part.num_images in (
            None,
            sum(image.error is None for image in images_of_sources(part)),
        )


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=20),
    label_maps=st.booleans(),
    max_bytes=st.integers(1, 20_000),
    cut_off=st.integers(0, 2000),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tar_is_cut_between_samples(tmp_path, sizes, label_maps, max_bytes, cut_off):
    members = []
    for number, size in enumerate(sizes):
        members.append((f"{number:03}.jpg", b"x" * size))
        if label_maps:
            members.append((f"{number:03}.label.png", b"y" * size))
    data = tar(members)
    whole = source(tmp_path, "a.tar", data[: len(data) - cut_off])
    parts = slices(whole, max_bytes=max_bytes)
    check_cover(whole, parts)
    if whole.size <= max_bytes:
        assert parts == [whole]
    for part in parts[:-1]:
        # One sample may be larger than the bound; two together may not.
        assert part.num_bytes <= max_bytes or part.num_images == 1


@given(rows=st.integers(0, 30), rows_per_group=st.integers(1, 8), max_images=st.integers(1, 12))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_parquet_file_is_cut_between_row_groups(tmp_path, rows, rows_per_group, max_images):
    data = parquet({"image": [f"{n}".encode() for n in range(rows)]}, rows_per_group=rows_per_group)
    whole = source(tmp_path, "a.parquet", data, kind="parquet")
    parts = slices(whole, max_images=max_images)
    check_cover(whole, parts)
    for part in parts:
        assert part.start % rows_per_group == 0
        assert len(images_of_sources(part)) <= max(max_images, rows_per_group)


def test_a_slice_is_cut_within_its_own_bounds(tmp_path):
    rows = {"image": [f"{n}".encode() for n in range(20)]}
    whole = source(tmp_path, "a.parquet", parquet(rows, rows_per_group=4), kind="parquet")
    middle = whole.sliced(start=3, stop=14)
    parts = slices(middle, max_images=4)
    assert [(part.start, part.stop) for part in parts] == [(3, 4), (4, 8), (8, 12), (12, 14)]
    archive = source(tmp_path, "a.tar", tar([(f"{n}.jpg", bytes(512)) for n in range(9)]))
    middle = archive.sliced(start=1024, stop=5 * 1024)
    parts = slices(middle, max_bytes=2048)
    check_cover(middle, parts)
    assert [part.num_images for part in parts] == [2, 2]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.jpg", bytes(5000), "file"),
        ("a.tar.gz", tar([(f"{n}.jpg", bytes(900)) for n in range(9)], compressed=True), "tar"),
        ("a.tar", tar([("a.jpg", bytes(900)), ("b.jpg", bytes(900)), ("a.jpg", b"")]), "tar"),
        ("a.tar", b"<html>not found</html>" * 100, "tar"),
        ("a.tar", tar([]), "tar"),
        ("a.parquet", b"no Parquet", "parquet"),
    ],
)
def test_what_cannot_be_cut_stays_whole(tmp_path, name, data, kind):
    whole = source(tmp_path, name, data, kind=kind)
    assert slices(whole, max_images=1, max_bytes=10) == [whole]


def test_a_small_archive_is_not_even_opened(tmp_path):
    whole = source(tmp_path, "a.tar", tar([("a.jpg", b"1")]))
    Path(whole.uri).unlink()
    assert slices(whole, max_images=1) == [whole]
    with pytest.raises(SourceChanged):
        slices(whole, max_bytes=1)


@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    limit=st.integers(1, 12),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_first_images_are_the_first_of_all_and_no_more(tmp_path, counts, limit):
    whole = []
    for number, count in enumerate(counts):
        members = [(f"{n}.jpg", b"x" * 600) for n in range(count)]
        whole += [
            source(tmp_path, f"{number}-a.tar", tar(members)),
            source(tmp_path, f"{number}-b.tgz", tar(members, compressed=True)),
            source(
                tmp_path,
                f"{number}-c.parquet",
                parquet({"image": [b"1"] * count}, rows_per_group=2),
                kind="parquet",
            ),
            dataclasses.replace(
                source(tmp_path, f"{number}-d.jpg", b"1", kind="file"), num_images=1
            ),
        ]
    first = list(CUTTER.first_images(whole, limit=limit, known={}))
    assert comparable(*first) == comparable(*whole)[:limit]
    assert [part.num_images for part in first] == [len(images_of_sources(part)) for part in first]


@pytest.mark.parametrize("kind", ["file", "tar", "parquet"])
@pytest.mark.parametrize("uri", ["foo://x/y", "/no/such/place", "/a\0b"])
def test_what_is_absent_stays_whole_and_is_one_image_of_the_first(uri, kind):
    absent = Source(uri=uri, name="y", kind=kind, etag="", size=0)
    assert list(CUTTER.slices(absent, max_images=1, max_bytes=1)) == [absent]
    (first,) = CUTTER.first_images([absent] * 2, limit=1, known={})
    assert first == dataclasses.replace(absent, num_images=1)
    assert len(images_of_sources(first)) == 1


def test_slices_of_an_earlier_plan_are_taken_without_a_look_inside(tmp_path):
    whole = source(tmp_path, "a.tar", tar([(f"{n}.jpg", bytes(100)) for n in range(6)]))
    earlier = list(CUTTER.first_images([whole], limit=2, known={}))
    known = {(part.uri, part.etag, part.start): part for part in earlier}
    Path(whole.uri).unlink()
    assert list(CUTTER.first_images([whole], limit=2, known=known)) == earlier
    with pytest.raises(SourceChanged):
        list(CUTTER.first_images([whole], limit=3, known=known))


def test_around_some_images_lie_their_samples_and_no_more(tmp_path):
    members = [(f"{n}.{kind}", bytes(600 + n)) for n in range(6) for kind in ("json", "jpg")]
    whole = source(tmp_path, "a.tar", tar(members))
    parts = list(CUTTER.around(whole, members={"2.jpg", "5.jpg", "other.jpg"}))
    assert comparable(*parts) == [
        each for each in comparable(whole) if each[0] in ("a.tar/2", "a.tar/5")
    ]
    assert [part.num_images for part in parts] == [1, 1]
    assert parts[-1].stop is None
    (middle,) = CUTTER.around(dataclasses.replace(whole, start=parts[0].start), members={"2.jpg"})
    assert middle == parts[0]


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.tar.gz", tar([("0.jpg", b"1"), ("1.jpg", b"2")], compressed=True), "tar"),
        ("a.tar", tar([("0.jpg", b"1"), ("1.jpg", b"2"), ("0.jpg", b"3")]), "tar"),
        ("a.parquet", parquet({"image": [b"1"]}), "parquet"),
    ],
)
def test_around_an_image_of_what_cannot_be_cut_lies_all_of_it(tmp_path, name, data, kind):
    whole = source(tmp_path, name, data, kind=kind)
    assert list(CUTTER.around(whole, members={"0.jpg"})) == [whole]
