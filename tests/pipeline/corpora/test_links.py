"""A link in an archive is an image of its own, with the bytes of what it leads to."""

import bz2
import gzip
import io
import tarfile

import pytest
from hooked import OneArchive
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.planning.splitting import Cutter

KINDS = {"hard": tarfile.LNKTYPE, "symbolic": tarfile.SYMTYPE}
Members = list[tuple[str, bytes | tuple[str, str]]]
"""Names, with data or with the kind and the target of a link."""


def tar_with_links(members: Members, *, format: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = KINDS[content[0]], content[1]
                archive.addfile(info)
    return buffer.getvalue()


def whole_archive(data: bytes) -> Source:
    return Source(uri="/a.tar", name="a.tar", kind="tar", etag="e", size=len(data))


def read_links(data: bytes, source: Source | None = None, **options) -> list[EncodedImage]:
    settings = ReadSettings(**options)
    return list(
        read_source(source or whole_archive(data), storage=OneArchive.of(data), settings=settings)
    )


def by_id(images: list[EncodedImage]) -> dict[str, bytes | str]:
    assert len({image.image_id for image in images}) == len(images)
    return {
        image.image_id.removeprefix("a.tar/"): image.error.error_class
        if image.error
        else image.data or b""
        for image in images
    }


MEMBERS: Members = [
    ("before.jpg", ("symbolic", "p/a.jpg")),
    ("p/a.jpg", b"a"),
    ("p/hard.jpg", ("hard", "p/a.jpg")),
    ("p/soft.jpg", ("symbolic", "a.jpg")),
    ("q/up.jpg", ("symbolic", "../p/./a.jpg")),
    ("chain.jpg", ("symbolic", "q/up.jpg")),
    ("blob", b"blob"),
    ("named.jpg", ("hard", "blob")),
    ("absolute.jpg", ("symbolic", "/p/a.jpg")),
    ("last.jpg", b"last"),
]
EXPECTED = {
    "before": b"a", "p/a": b"a", "p/hard": b"a", "p/soft": b"a", "q/up": b"a", "chain": b"a",
    "named": b"blob", "absolute": b"a", "last": b"last",
}  # fmt: skip


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_of_all_kinds_give_the_bytes_that_they_lead_to(compress, format):
    images = read_links(compress(tar_with_links(MEMBERS, format=format)))
    assert by_id(images) == EXPECTED
    assert {image.member for image in images} == {name for name, _ in MEMBERS} - {"blob"}


def test_targets_with_long_names_are_found():
    name = "folder/" * 20 + "x" * 120 + ".jpg"
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members: Members = [(name, b"1"), ("a.jpg", ("hard", name))]
        assert by_id(read_links(tar_with_links(members, format=format)))["a"] == b"1"


@pytest.mark.parametrize(
    "members",
    [
        [("a.jpg", ("symbolic", "/etc/passwd"))],
        [("a.jpg", ("hard", "gone.jpg"))],
        [("a.jpg", ("symbolic", "a.jpg"))],
        [("a.jpg", ("hard", "a.jpg"))],
        [("a.jpg", ("symbolic", "b")), ("b", ("symbolic", "c")), ("c", ("symbolic", "a.jpg"))],
    ],
)
def test_a_link_that_leads_nowhere_is_an_image_in_error(members):
    (image,) = read_links(tar_with_links(members))
    assert by_id([image]) == {"a": "NotFound"}
    assert "link to" in image.error.message
    assert image.member == "a.jpg"


def test_a_link_to_what_is_no_good_says_why():
    members: Members = [("a.jpg", b"x" * 99), ("b.jpg", ("hard", "a.jpg"))]
    found = by_id(read_links(tar_with_links(members), max_image_bytes=98))
    assert found == {"a": "TooLarge", "b": "TooLarge"}


def test_a_hard_link_is_to_what_had_the_name_before_it():
    members: Members = [("a", b"1"), ("b.jpg", ("hard", "a")), ("a", b"2"),
                        ("c.jpg", ("symbolic", "a"))]  # fmt: skip
    assert by_id(read_links(tar_with_links(members))) == {"b": b"1", "c": b"2"}


def test_the_archive_of_a_link_that_is_cut_gives_what_is_whole():
    data = tar_with_links([("b.jpg", ("symbolic", "a.jpg")), ("a.jpg", b"x" * 2000)])
    assert by_id(read_links(data[:2048])) == {
        "b": "TruncatedArchive",
        "a.tar@512": "TruncatedArchive",
    }


def test_links_lead_out_of_the_slice_that_is_read():
    data = tar_with_links(MEMBERS)
    cutter = Cutter(storage=OneArchive.of(data), reading=ReadSettings())
    slices = list(cutter.slices(whole_archive(data), max_images=1, max_bytes=1))
    assert len(slices) > 5
    images = [image for each in slices for image in read_links(data, each)]
    assert by_id(images) == EXPECTED
    assert sum(each.num_images for each in slices) == len(EXPECTED)
    (piece,) = cutter.around(whole_archive(data), members={"chain.jpg"})
    assert by_id(read_links(data, piece)) == {"chain": b"a"}


def test_a_label_map_that_is_a_link_is_left_alone():
    members: Members = [("x.jpg", b"1"), ("x.png", ("hard", "x.jpg"))]
    assert by_id(read_links(tar_with_links(members))) == {"x": b"1"}


NAMES = st.sampled_from(["a.jpg", "b.jpg", "p/a.jpg", "p/b.png", "c", "../d.jpg"])
CONTENT = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.tuples(st.sampled_from([*KINDS]), st.sampled_from(["a.jpg", "../a.jpg", "b.jpg", "c", "/"])),
)


@settings(max_examples=100)
@given(st.lists(st.tuples(NAMES, CONTENT), max_size=8), st.sampled_from([bytes, gzip.compress]))
def test_whatever_links_lead_to_each_image_has_one_row(members, compress):
    images = read_links(compress(tar_with_links(members)))
    rows = [image for image in images if image.member is not None]
    assert sorted(image.member for image in rows) == sorted(
        name for name, _ in members if name != "c"
    )
    assert len({image.image_id for image in images}) == len(images)
    assert all((image.data is None) == (image.error is not None) for image in images)
    held = {content for _, content in members if isinstance(content, bytes)}
    assert all(image.data in held for image in images if image.data is not None)
