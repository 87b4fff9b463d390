"""What is known to be an image by its ending, and what of it is not read, is said the same way
everywhere."""

import pytest
from as_files import encode_image
from corpora import picture, put, tar
from PIL import Image

from pipeline.corpora.corpus import kind_of
from pipeline.corpora.decoding import ImageError, decode
from pipeline.corpora.endings import IMAGE_ENDINGS, ending
from pipeline.corpora.reading import EncodedImage, ReadSettings, read_source
from pipeline.corpora.sources import Source
from pipeline.storage import Storage

STORAGE = Storage()
TIFF = picture(format="TIFF")
FILES = {
    "IMG_1.HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
    "b.heif": b"\0\0\0\x18ftypmiaf\0\0\0\0miafMiHB" + bytes(99),
    "c.CR2": TIFF,
    "d.dng": TIFF,
    "e.nef": b"MM\0*" + bytes(99),
    "f.cr3": b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(99),
    "g.raf": b"FUJIFILMCCD-RAW 0201FF383501X-T3\0\0" + bytes(99),
    "h.rw2": b"IIU\0\x18\0\0\0" + bytes(99),
    "i.orf": b"IIRO\x08\0\0\0" + bytes(99),
    "j.jxl": b"\xff\x0a" + bytes(99),
    "k.psd": b"8BPS\0\x01" + bytes(99),
    "l.tga": b"\0\0\x0a\0\0\0\0\0" + bytes(range(1, 99)),
    "m.exr": b"\x76\x2f\x31\x01" + bytes(99),
}


def in_folder(tmp_path, name: str, data: bytes) -> EncodedImage:
    file = STORAGE.file(put(tmp_path, {name: data}) + f"/{name}")
    assert file is not None
    source = Source(uri=file.uri, name=name, kind="file", etag=file.etag, size=file.size)
    (image,) = read_source(source, storage=STORAGE, settings=ReadSettings())
    return image


def in_tar(tmp_path, name: str, data: bytes) -> EncodedImage:
    file = STORAGE.file(put(tmp_path, {"a.tar": tar([(name, data)])}) + "/a.tar")
    assert file is not None
    source = Source(uri=file.uri, name="a.tar", kind="tar", etag=file.etag, size=file.size)
    (image,) = read_source(source, storage=STORAGE, settings=ReadSettings())
    return image


def error_of(image: EncodedImage) -> ImageError | None:
    if image.error is not None:
        return image.error
    try:
        decode(image.data or b"", name=image.name, max_pixels=10**6)
    except ImageError as error:
        return error
    return None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [in_folder, in_tar])
def test_an_image_in_a_known_format_that_is_not_read_is_a_row_that_says_so(tmp_path, place, name):
    assert kind_of(f"/corpus/{name}") == "file"
    error = error_of(place(tmp_path, name, FILES[name]))
    assert error is not None
    assert error.error_class == "UnsupportedFormat"
    assert name in error.message


@pytest.mark.parametrize("name", ["a.heic", "b.dng", "c.psd"])
@pytest.mark.parametrize("place", [in_folder, in_tar])
def test_bytes_that_are_read_are_taken_whatever_their_file_is_called(tmp_path, place, name):
    assert error_of(place(tmp_path, name, picture(format="JPEG"))) is None


@pytest.mark.parametrize(
    ("data", "error_class"),
    [(b"", "EmptyFile"), (b"<html>404</html>", "NotAnImage"), (bytes(99), "NotAnImage")],
)
def test_what_is_no_image_at_all_is_none_under_any_name(tmp_path, data, error_class):
    error = error_of(in_folder(tmp_path, "a.cr2", data))
    assert error is not None
    assert error.error_class == error_class


def test_every_ending_is_an_image_in_folders_and_archives_alike(tmp_path):
    files = [(f"{index}.{each}", b"1") for index, each in enumerate(IMAGE_ENDINGS)]
    file = STORAGE.file(put(tmp_path, {"a.tar": tar(files)}) + "/a.tar")
    assert file is not None
    source = Source(uri=file.uri, name="a.tar", kind="tar", etag=file.etag, size=file.size)
    images = read_source(source, storage=STORAGE, settings=ReadSettings())
    assert [image.member for image in images] == [name for name, _ in files]
    assert all(kind_of(f"/corpus/{name}") == "file" for name, _ in files)


@pytest.mark.parametrize("each", ["dib", "jfif", "pbm", "mpo", "j2k", "avifs"])
def test_more_endings_of_formats_that_are_read(tmp_path, each):
    formats = {"dib": "BMP", "jfif": "JPEG", "pbm": "PPM", "mpo": "MPO", "j2k": "JPEG2000"}
    image = encode_image(Image.new("RGB", (8, 8)), formats.get(each, "AVIF"))
    assert error_of(in_tar(tmp_path, f"x.{each}", image)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b.JPG", "jpg"), ("a.b/c", ""), ("c", ""), ("x.tar.gz", "gz"), ("x.", ""), (".jpg", "jpg")],
)
def test_an_ending_is_what_follows_the_last_dot_of_a_name(name, expected):
    assert ending(name) == expected
