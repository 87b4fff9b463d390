"""Tars of members with all kinds of names and types: each image is a row, or is counted."""

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hooked import OneArchive
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpora.endings import IMAGE_ENDINGS, ending
from pipeline.corpora.reading import ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.runtime.skips import EMPTY_ARCHIVE, OF_NO_KNOWN_KIND, SkipCounts

TYPES = {
    "file": tarfile.REGTYPE, "hard": tarfile.LNKTYPE, "symbolic": tarfile.SYMTYPE,
    "folder": tarfile.DIRTYPE, "pipe": tarfile.FIFOTYPE,
}  # fmt: skip
IMAGES = ("file", "hard", "symbolic")

parts = st.one_of(
    st.sampled_from(["x", "y", "22", "05", "v2", "seg", "left", "IMG_1", "", " ", "É"]),
    st.text("ab1._- é", max_size=5),
)
names = st.builds(
    lambda folder, parts, last: folder + ".".join([*parts, last]),
    st.sampled_from(["", "./", "a/", "b.c/", "_d/", "../", "__MACOSX/", ".git/"]),
    st.lists(parts, max_size=3),
    st.sampled_from(["jpg", "PNG", "heic", "dng", "jfif", "json", "cls", ""]),
).filter(lambda name: not name.endswith("/"))
types = st.sampled_from(["file"] * 4 + [*TYPES])
targets = st.one_of(names, st.sampled_from(["x.jpg", "../x.jpg", "a/x.jpg", "/x.jpg", "/", ""]))
members = st.lists(st.tuples(names, types, targets), max_size=12)


Drawn = list[tuple[str, str, str]]
"""Names, types and targets of members."""


def each_image_is_a_row_or_is_counted(
    drawn: Drawn, compress: Callable[[bytes], bytes], format: int
) -> None:
    buffer = io.BytesIO()
    content = {}
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for index, (name, kind, target) in enumerate(drawn):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = TYPES[kind], target
            data = b"%d" % index if kind == "file" else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            if kind == "file":
                content[data] = name
    data = compress(buffer.getvalue())
    storage = OneArchive.of(data)
    source = Source(uri="/a.tar", name="a.tar", kind="tar", etag="e", size=len(data))
    skipped = SkipCounts()
    images = list(read_source(source, storage=storage, settings=ReadSettings(), skipped=skipped))
    could_be = [name for name, kind, _ in drawn if kind in IMAGES and ending(name) in IMAGE_ENDINGS]
    rows = [image for image in images if image.member is not None]
    counted = skipped.counts.copy()
    del counted[OF_NO_KNOWN_KIND], counted[EMPTY_ARCHIVE]
    assert len(rows) + counted.total() == len(could_be)
    assert len({image.image_id for image in images}) == len(images)
    is_link = {name for name, kind, _ in drawn if kind != "file"}
    for image in rows:
        assert (image.data is None) == (image.error is not None)
        if image.data is not None and image.member not in is_link:
            assert content[image.data] == image.member
    if could_be and not rows:
        assert [image.error.error_class for image in images if image.error] == ["NoImageMember"]


@settings(max_examples=100)
@given(members, st.sampled_from([bytes, gzip.compress]), st.sampled_from([1, 2]))
def test_each_image_of_a_tar_is_a_row_or_is_counted(
    drawn: Drawn, compress: Callable[[bytes], bytes], format: int
) -> None:
    each_image_is_a_row_or_is_counted(drawn, compress, format)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@settings(max_examples=10_000)
@given(members, st.sampled_from([bytes, gzip.compress]), st.sampled_from([1, 2]))
def test_each_image_of_ten_thousand_tars_is_a_row_or_is_counted(
    drawn: Drawn, compress: Callable[[bytes], bytes], format: int
) -> None:
    each_image_is_a_row_or_is_counted(drawn, compress, format)
