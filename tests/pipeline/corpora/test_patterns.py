"""A pattern matches what a shell's would, and takes folders whole."""

import pytest
from corpora import put, tar

from pipeline.corpora.corpus import list_corpus
from pipeline.corpora.reading import ReadSettings
from pipeline.storage import Storage

STORAGE = Storage()


def matching_names(corpus: str, *, storage: Storage = STORAGE) -> list[str]:
    listing = list_corpus(corpus, storage=storage, settings=ReadSettings())
    return [source.name for source in listing.sources]


FILES = ["a.jpg", "b1.jpg", "b2.png", "sub/c.jpg", "sub/deep/d.jpg", "s-009.tar", "s-010.tar"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b1.jpg"]),
        ("?.jpg", ["a.jpg"]),
        ("b[12].*", ["b1.jpg", "b2.png"]),
        ("b[!1].*", ["b2.png"]),
        ("**/*.jpg", ["a.jpg", "b1.jpg", "sub/c.jpg", "sub/deep/d.jpg"]),
        ("sub/**", ["sub/c.jpg", "sub/deep/d.jpg"]),
        ("su*", ["sub/c.jpg", "sub/deep/d.jpg"]),
        ("*/*.jpg", ["sub/c.jpg"]),
        ("s-{000..009}.tar", ["s-009.tar"]),
        ("{a,sub/c}.jpg", ["a.jpg", "sub/c.jpg"]),
        ("none*.jpg", []),
    ],
)
def test_a_pattern_matches_as_a_shell_has_it(tmp_path, pattern, expected):
    root = put(tmp_path, {name: tar([]) if name.endswith("tar") else b"1" for name in FILES})
    prefix = "sub/" if pattern == "sub/**" else ""
    assert [prefix + name for name in matching_names(f"{root}/{pattern}")] == expected


def test_a_file_or_folder_that_is_called_like_a_pattern_is_itself(tmp_path):
    root = put(tmp_path, {"a[1].jpg": b"1", "a1.jpg": b"1", "b{1,2}/c.jpg": b"1", "b1/d.jpg": b"1"})
    assert matching_names(f"{root}/a[1].jpg") == ["a[1].jpg"]
    assert matching_names(f"{root}/b{{1,2}}") == ["c.jpg"]


def test_a_pattern_works_on_s3(s3_storage):
    for name in ("x-1.jpg", "x-2.jpg", "y.jpg"):
        s3_storage.write(f"s3://test/patterns/{name}", b"1")
    assert matching_names("s3://test/patterns/x-*.jpg", storage=s3_storage) == [
        "x-1.jpg",
        "x-2.jpg",
    ]


@pytest.mark.parametrize("pattern", ["s3://buck*/x", "/*.jpg", "/x/[z-a].jpg", "/x/{0..9999999}"])
def test_a_pattern_that_cannot_be_followed_is_refused(pattern):
    with pytest.raises(ValueError, match=r"pattern|range|bucket"):
        matching_names(pattern)
