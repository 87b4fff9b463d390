"""Each image of an archive is a sample under a name of its own, or is left alone and counted."""

import contextlib
import io
import itertools
import tarfile
from collections import Counter

import pytest
from drawn_archives import (
    EXTENSIONS,
    LONG,
    images_by_name,
    photographs,
    read_members,
    tar_in_format,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.endings import IMAGE_ENDINGS, ending
from pipeline.corpora.samples import ArchiveSample, key_and_extension, sample_offsets, samples
from pipeline.runtime.skips import SkipCounts


def tar_of_names(names: list[str]) -> bytes:
    """An archive whose members hold their own names."""
    return tar_in_format([(name, name.encode()) for name in names], format=tarfile.GNU_FORMAT)


def read_samples(names: list[str], **options) -> tuple[list[ArchiveSample], SkipCounts]:
    skipped = SkipCounts()
    data = io.BytesIO(tar_of_names(names))
    options = {"image_members": IMAGE_ENDINGS, "max_image_bytes": 2**20, **options}
    return list(samples(data, count_skipped=skipped.add, **options)), skipped


def keys(found: list[ArchiveSample]) -> dict[str, str]:
    """Lists keys of images with the member of each; the data are the member's own."""
    assert all(s.data == s.image.name.encode() for s in found if s.image and not s.is_repeated)
    return {sample.key: sample.image.name for sample in found if sample.image}


@pytest.mark.parametrize(
    "names",
    [
        ["22.05.jpg", "22.06.jpg", "22.jpg"],
        ["IMG_0001.jpg", "IMG_0001.v2.jpg"],
        ["Screenshot 10.15.22.png", "Screenshot 10.15.23.png"],
        ["a.b/c.jpg", "a.b/d.e/f.png"],
        ["2024.01.02.jpg", "2024.01.03.JPG"],
        ["x.left.jpg", "x.right.jpg"],
        ["www.example.com.jpg", "www.example.org.png"],
        ["PXL_1.RAW-01.COVER.jpg", "PXL_1.RAW-02.ORIGINAL.dng"],
        ["IMG_1.MP.jpg", "IMG_2.PORTRAIT.jpg"],
        ["photo (1).final.jpg"],
        ["x..jpg", "x.jpg"],
        ["_DSC0001.JPG", "_images/x.y_z.png"],
    ],
)
def test_a_photograph_with_dots_in_its_name_is_an_image_called_as_it_is(names):
    found, skipped = read_samples(names)
    assert keys(found) == {name.rpartition(".")[0]: name for name in names}
    assert not any(sample.is_repeated for sample in found)
    assert not skipped


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["x.cls", "x.jpg", "x.json", "x.png", "x.seg.png"], {"x": "x.jpg"}),
        (["x.depth.png", "x.edge.png", "x.jpg"], {"x": "x.jpg"}),
        (["x.png", "x.seg.png"], {"x": "x.png"}),
        (["22.05.jpg", "22.05.png", "22.05.seg.png"], {"22.05": "22.05.jpg"}),
        (["x.heic", "x.jpg"], {"x": "x.jpg"}),
        (["x.left.jpg", "x.left.png", "x.right.jpg"], {"x.left": "x.left.jpg",
                                                       "x.right": "x.right.jpg"}),
    ],
)  # fmt: skip
def test_what_stands_beside_an_image_of_its_name_is_left_alone_and_counted(names, images):
    found, skipped = read_samples(names)
    assert keys(found) == images
    others = [name for name in names if ending(name) in IMAGE_ENDINGS]
    others = [name for name in others if name not in images.values()]
    assert skipped.examples == {"beside the image of the same name": others}


def test_what_is_hidden_or_of_no_known_kind_is_counted():
    found, skipped = read_samples(
        ["._a.jpg", "__MACOSX/a.jpg", ".DS_Store", "a.txt", "a.json", "b.jpg", "b.txt", "noext"]
    )
    assert keys(found) == {"b": "b.jpg"}
    assert skipped.examples == {
        "hidden": ["._a.jpg", "__MACOSX/a.jpg"],
        "of no known kind": ["a.txt", "a.json", "noext"],
    }


def test_endings_that_are_not_asked_for_are_counted():
    found, skipped = read_samples(["a.jpg", "a.png", "b.png"], image_members=["jpg"])
    assert keys(found) == {"a": "a.jpg"}
    assert skipped.examples == {
        "beside the image of the same name": ["a.png"],
        "with an ending that image_members leaves out": ["b.png"],
    }


def test_extensions_with_dots_may_be_asked_for():
    found, _ = read_samples(
        ["x.jpg", "x.left.jpg", "x.right.jpg"], image_members=["left.jpg", "jpg"]
    )
    assert keys(found) == {"x": "x.left.jpg"}


def test_a_name_that_had_no_image_before_is_none_that_comes_again():
    found, _ = read_samples(["a.json", "b.json", "a.jpg", "b.jpg", "a.png"])
    assert [(sample.key, sample.is_repeated) for sample in found if sample.image] == [
        ("a", False),
        ("b", False),
        ("a", True),
    ]


def test_more_images_than_one_sample_has_are_photographs_and_take_no_memory():
    words = [f"x.{chr(97 + n // 26)}{chr(97 + n % 26)}.jpg" for n in range(60)]
    arrived = []
    data = io.BytesIO(tar_of_names([*words, "x.jpg"]))
    for sample in samples(data, image_members=["jpg"], max_image_bytes=2**20):
        arrived.append((sample.key, data.tell()))
    assert [key for key, _ in arrived] == [name.removesuffix(".jpg") for name in [*words, "x.jpg"]]
    assert arrived[20][1] < 30 * 1024


@pytest.mark.parametrize(
    ("name", "key", "extension"),
    [
        ("a/x.JPG", "a/x", "jpg"),
        ("./x.seg.png", "x", "seg.png"),
        ("x.v2.tar.jpg", "x.v2", "tar.jpg"),
        ("x.1.2.jpg", "x.1.2", "jpg"),
        ("x", "x", ""),
        ("a.b/x", "a.b/x", ""),
        ("x.y z.jpg", "x.y z", "jpg"),
        ("x.3fr", "x", "3fr"),
    ],
)
def test_the_extension_begins_behind_the_last_part_that_is_no_word(name, key, extension):
    assert key_and_extension(name) == (key, extension)


PARTS = ["x", "y", "22", "05", "v2", "seg", "left", "a b", "", "É"]
NAMES = st.builds(
    lambda folder, parts, last: folder + ".".join([*parts, last]),
    st.sampled_from(["", "./", "a/", "b.c/", "_d/"]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    st.sampled_from(["jpg", "PNG", "heic", "json", "cls"]),
)


@settings(max_examples=150)
@given(st.lists(NAMES, max_size=12), st.data())
def test_every_member_that_could_be_an_image_is_one_or_is_counted(names, data):
    found, skipped = read_samples(names)
    images = [sample for sample in found if sample.image is not None]
    could_be = [name for name in names if ending(name) in IMAGE_ENDINGS]
    counted = skipped.counts.total() - skipped.counts["of no known kind"]
    assert len(images) + counted == len(could_be)
    assert not Counter(s.image.name for s in images) - Counter(could_be)
    ids = [sample.key for sample in images if not sample.is_repeated]
    assert len(set(ids)) == len(ids)
    assert all(sample.image.name.removeprefix("./").startswith(sample.key) for sample in images)
    whole = io.BytesIO(tar_of_names(names))
    walked = list(sample_offsets(whole, image_members=IMAGE_ENDINGS))
    assert [(s.key, s.offset, s.image) for s in walked] == [
        (s.key, s.offset, s.image) for s in found
    ]
    if any(sample.is_repeated for sample in walked):
        return
    offsets = [sample.offset for sample in walked]
    cuts = sorted(data.draw(st.sets(st.sampled_from(offsets)))) if offsets else []
    parts = [
        sample
        for start, stop in zip([0, *cuts], [*cuts, None], strict=True)
        for sample in samples(
            whole, image_members=IMAGE_ENDINGS, max_image_bytes=2**20, start=start, stop=stop
        )
    ]
    assert [s for s in parts if s.image] == images


def test_a_sample_is_what_shares_a_name_up_to_the_first_dot():
    files = {
        "a/1.json": b"{}",
        "a/1.png": b"labels",
        "a/1.JPG": b"photograph",
        "a/1.seg.png": b"more labels",
        "a/2.txt": b"no image",
        "b/1.png": b"alone",
        "b/._1.png": b"a Mac's",
        "__MACOSX/b/1.png": b"another Mac's",
    }
    found, damage = read_members(tar_in_format(files))
    assert damage is None
    assert [sample.key for sample in found] == ["a/1", "a/2", "b/1"]
    assert images_by_name(found) == {"a/1.JPG": b"photograph", "b/1.png": b"alone"}


def test_a_label_map_does_not_stand_in_for_a_photograph_that_is_cut():
    whole = tar_in_format({"1.png": b"labels", "1.jpg": b"photograph" * 100})
    found, damage = read_members(whole[: 1024 + 512 + 512])
    assert found == []
    assert damage is not None


def test_a_key_that_comes_again_is_another_sample_and_says_so():
    files = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"3"), ("c.jpg", b"4"), ("c.jpg", b"5")]
    found, damage = read_members(tar_in_format(files))
    assert damage is None
    assert [sample.data for sample in found] == [b"1", b"2", b"3", b"4", b"5"]
    assert [sample.is_repeated for sample in found] == [False, False, True, False, True]


def test_an_image_larger_than_allowed_is_not_read():
    found, damage = read_members(
        tar_in_format({"a.jpg": b"x" * 2000, "b.jpg": b"y"}), max_image_bytes=1999
    )
    assert damage is None
    assert images_by_name(found) == {"a.jpg": None, "b.jpg": b"y"}


@settings(max_examples=60)
@given(st.data())
def test_slices_hold_every_sample_of_the_whole_once(data):
    names = [f"{index}.{ext}" for index in range(8) for ext in ("cls", "jpg", "json", LONG)]
    names = [name for name in names if data.draw(st.booleans())]
    whole = tar_in_format({name: name.encode() * 90 for name in names}, format=tarfile.GNU_FORMAT)
    offsets = [s.offset for s in sample_offsets(io.BytesIO(whole), image_members=EXTENSIONS)]
    inner = data.draw(st.sets(st.sampled_from(offsets))) if offsets else set()
    cuts = [0, *sorted(inner), None]
    parts = [
        sample
        for start, stop in itertools.pairwise(cuts)
        for sample in samples(
            io.BytesIO(whole),
            image_members=EXTENSIONS,
            max_image_bytes=2**20,
            start=start or 0,
            stop=stop,
        )
    ]
    assert parts == read_members(whole)[0]


def test_sample_offsets_read_headers_and_nothing_else():
    class Counting(io.BytesIO):
        num_bytes = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.num_bytes += len(data)
            return data

    whole = tar_in_format(
        {f"{index}.jpg": bytes(50_000) for index in range(20)}, format=tarfile.GNU_FORMAT
    )
    file = Counting(whole)
    found = list(sample_offsets(file, image_members=EXTENSIONS))
    assert [sample.image is not None for sample in found] == [True] * 20
    assert file.num_bytes < 20 * 512 + 2 * 10240


def test_sample_offsets_count_no_image_that_is_cut():
    whole = photographs(3)
    for cut in range(0, len(whole), 512):
        walked = []
        with (
            pytest.raises(ArchiveDamage)
            if read_members(whole[:cut])[1]
            else contextlib.nullcontext()
        ):
            for sample in sample_offsets(io.BytesIO(whole[:cut]), image_members=EXTENSIONS):
                walked.append(sample.offset)
        assert walked == [sample.offset for sample in read_members(whole[:cut])[0]]
