"""Decodes an image's bytes to upright RGB pixels, or raises an `ImageError`.

Takes the bytes that `reading.py` yields; the loader resizes the pixels. Only formats of pixels are
tried, none that runs a program (PostScript) or draws (SVG, PDF). Of animations and files of several
pages the first image counts, without a TIFF's smaller copies. Samples of more than 8 bits become 8
by the file's own tags and depth (`tiff.py`, `levels.py`), never by a guess. A damaged image is an
error, never half a picture, as far as its format shows the damage. `error_classes.py` lists the
classes of errors, `pipeline/README.md` says what each means.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from PIL import (  # noqa: F401  the plugins that may run: importing one registers it
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from maskformer import to_rgb
from pipeline.corpora import jpeg, png, tiff, tiff_pages
from pipeline.corpora.error_classes import ErrorClass
from pipeline.corpora.levels import UnsupportedPixels, check_high_bytes, grey

HeightWidth = tuple[int, int]
_T = TypeVar("_T")

_FORMATS: list[str] = [
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
    if name in Image.OPEN
]

# Wrong metadata of an image do not matter here; wrong pixels are errors.
warnings.filterwarnings("ignore", module=r"PIL(\..*)?")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class ImageError(Exception):
    """The error of one image, as the table stores it."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(error_class, message)
        self.error_class: ErrorClass = error_class
        """A name to count errors by, stable across versions."""
        self.message = message
        """A sentence for people: which image, what was found, what would be right."""

    def __str__(self) -> str:
        return f"{self.error_class}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A decoded image and its original size."""

    image: Image.Image
    """The upright RGB image, smaller than the original where decoded at a reduced scale."""
    height: int
    width: int


def decode(
    data: bytes,
    *,
    name: str,
    mode: Literal["exact", "fast"] = "exact",
    target_size: HeightWidth | Callable[[HeightWidth], HeightWidth] | None = None,
    max_pixels: int,
) -> Decoded:
    """Decodes the first image in the bytes.

    Args:
        name: the image's location, for messages.
        mode: `fast` decodes a JPEG at 1/2, 1/4 or 1/8 of its scale where both sides stay at or
            above `target_size`; everything else is decoded as with `exact`.
        target_size: the size that the upright image will be resized to, or a function from the
            upright image's size to it.

    Raises:
        ImageError: the bytes are no image, or none that is read.
    """
    if mode == "fast" and target_size is None:
        raise ValueError("mode='fast' needs a target_size, below which no image is decoded")
    if not data:
        raise ImageError("EmptyFile", f"{name}: the file is empty")
    _let_pillow_allow(max_pixels)

    def decoded(data: bytes) -> Decoded:
        if tiff_pages.is_tiff(data):
            page = tiff_pages.find_picture(data)
            _check_size((page.width, page.height), name=name, max_pixels=max_pixels)
            rgb = tiff.load_page(page)
            return Decoded(image=rgb, height=rgb.height, width=rgb.width)
        with _open(data) as image:
            _check_size(image.size, name=name, max_pixels=max_pixels)
            full_size = None
            if mode == "fast" and image.format in ("JPEG", "MPO"):
                full_size = _reduce(image, target_size=target_size)
            image.load()
            _check_end(image, data)
            rgb = to_rgb(_of_8_bits(image, data))
            rgb = rgb.copy() if rgb is image else rgb  # without the file's decoder
        height, width = full_size or (rgb.height, rgb.width)
        return Decoded(image=rgb, height=height, width=width)

    return _or_image_error(decoded, data, name=name, max_pixels=max_pixels)


def image_size(data: bytes, *, name: str, max_pixels: int) -> HeightWidth:
    """Reads the upright size of the first image, from its header alone.

    Raises:
        ImageError: there is no image header, or it claims more than `max_pixels`.
    """
    if not data:
        raise ImageError("EmptyFile", f"{name}: the file is empty")
    _let_pillow_allow(max_pixels)

    def size(data: bytes) -> HeightWidth:
        if tiff_pages.is_tiff(data):
            page = tiff_pages.find_picture(data)
            _check_size((page.width, page.height), name=name, max_pixels=max_pixels)
            return page.size
        with _open(data) as image:
            _check_size(image.size, name=name, max_pixels=max_pixels)
            return _upright_size(image)

    return _or_image_error(size, data, name=name, max_pixels=max_pixels)


def orientation(data: bytes, *, name: str, max_pixels: int) -> int:
    """Reads the EXIF orientation of the first image, 1 to 8; 1 is upright.

    Raises:
        ImageError: as `image_size`.
    """

    def found(data: bytes) -> int:
        if tiff_pages.is_tiff(data):
            value = tiff_pages.find_picture(data).value(tiff_pages.Tag.ORIENTATION, 1)
        else:
            with _open(data) as image:
                value = _orientation(image)
        return value if 1 <= value <= 8 else 1

    return _or_image_error(found, data, name=name, max_pixels=max_pixels)


def _or_image_error(read: Callable[[bytes], _T], data: bytes, *, name: str, max_pixels: int) -> _T:
    """Returns what is read from the bytes; of a PNG, if need be, without its metadata."""
    try:
        return read(data)
    except ImageError:
        raise
    except Exception as error:  # any exception of a decoder is a fault of these bytes
        cause = error
    picture = png.without_metadata(data) if data.startswith(png.SIGNATURE) else None
    if picture is not None and not isinstance(cause, MemoryError):
        try:
            return read(picture)
        except ImageError:
            raise
        except Exception as error:
            cause = error
    raise _image_error(cause, data, name=name, max_pixels=max_pixels) from cause


def _check_end(image: Image.Image, data: bytes) -> None:
    """Raises OSError where the decoder has invented pixels that the file lacks."""
    if image.format == "JPEG2000" and _lacks_its_end(data):
        raise OSError("the end mark is missing")
    if image.format in ("JPEG", "MPO") and jpeg.lacks_jpeg_data(image, data):
        raise OSError("its data end before its pixels do")
    if image.format == "PNG":
        if not png.has_one_header(data):
            raise OSError("it must begin with its header, and have no other that differs")
        if image.mode == "P" and image.palette is None:
            raise OSError("its palette is missing")
        if png.lacks_png_data(image, data):
            raise OSError("its data end before its pixels do")


def _of_8_bits(image: Image.Image, data: bytes) -> Image.Image:
    """Scales samples of more or fewer than 8 bits where Pillow does not."""
    if image.mode == "F":
        return Image.fromarray(grey(np.asarray(image), bits=32))
    if image.format == "PNG" and png.bits_per_sample(data) == 16:
        check_high_bytes(image)
    return jpeg.fitted_2000(image, data) if image.format == "JPEG2000" else image


def _let_pillow_allow(max_pixels: int) -> None:
    """Raises Pillow's own bound, which holds for the process, where it is below ours."""
    pillow_bound = Image.MAX_IMAGE_PIXELS
    if pillow_bound is not None and 2 * pillow_bound < max_pixels:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def _check_size(size: tuple[int, int], *, name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            "DecompressionBomb",
            f"{name}: an image may have at most {max_pixels} pixels, this has {height} x {width} = "
            f"{height * width}; raise max_image_pixels to allow it",
        )


def _reduce(
    image: Image.Image, *, target_size: HeightWidth | Callable[[HeightWidth], HeightWidth] | None
) -> HeightWidth:
    """Sets the decoder to the smallest allowed scale; returns the full upright size."""
    full_size = _upright_size(image)
    height, width = target_size(full_size) if callable(target_size) else (target_size or full_size)
    image.draft(None, (height, width) if _is_turned(image) else (width, height))
    return full_size


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def _upright_size(image: Image.Image) -> HeightWidth:
    return (image.width, image.height) if _is_turned(image) else (image.height, image.width)


def _is_turned(image: Image.Image) -> bool:
    """True if height and width change places when the image is put upright."""
    return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata say nothing about the pixels
        return 1


def _image_error(error: Exception, data: bytes, *, name: str, max_pixels: int) -> ImageError:
    """Converts an exception of Pillow or its decoders."""
    reason = _one_line(error)
    if isinstance(error, Image.DecompressionBombError):
        bound = f"an image may have at most {max_pixels} pixels"
        hint = "raise max_image_pixels to allow it"
        return ImageError("DecompressionBomb", f"{name}: {bound}; {reason}; {hint}")
    if isinstance(error, MemoryError):
        return ImageError(
            "OutOfMemory",
            f"{name}: no memory to decode {len(data)} bytes; lower max_image_pixels or give the "
            "reading tasks more",
        )
    if isinstance(error, UnsupportedPixels):
        return ImageError("UnsupportedPixels", f"{name}: {reason}")
    if isinstance(error, tiff.CameraFile):
        return ImageError("UnsupportedFormat", f"{name}: {reason}")
    kind = _kind(data)
    if isinstance(error, UnidentifiedImageError) and (kind is None or not kind.is_read):
        text = f"{name}: it is no image in a format that is read{guess_content(data)}"
        is_image = kind is not None and kind.is_image
        text += "; convert it, as to JPEG or PNG" if is_image else ""
        return ImageError("UnsupportedFormat" if is_image else "NotAnImage", text)
    is_unidentified = isinstance(error, UnidentifiedImageError)
    if is_unidentified:
        reason = "its header cannot be read"
    if _TRUNCATED.search(reason) or _lacks_its_end(data):
        return ImageError("TruncatedImage", f"{name}: it ends after {len(data)} bytes: {reason}")
    description = _description(data) if is_unidentified else None
    if description is not None:
        reason = f"{description}; pixels of this kind are not read"
        return ImageError("UnsupportedPixels", f"{name}: {reason}")
    if isinstance(error, NotImplementedError) or _UNSUPPORTED.search(reason):
        return ImageError("UnsupportedPixels", f"{name}: {reason}")
    return ImageError("DamagedImage", f"{name}: {reason}")


def _description(data: bytes) -> str | None:
    """Describes the pixels by a sound header; None where there is none."""
    if tiff_pages.is_tiff(data):
        return str(tiff_pages.find_picture(data))
    if data.startswith(b"\xff\xd8"):
        return jpeg.describe_jpeg(data)
    if re.match(rb"PF\s", data):
        return "PFM, 3 x 32-bit float"
    return jpeg.describe_2000(data) if _JPEG_2000.match(data) else None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    is_for_people = isinstance(error, OSError | UnsupportedPixels | tiff.CameraFile)
    return text if is_for_people and text else f"{type(error).__name__} {text}".strip()


_TRUNCATED = re.compile("truncated|beyond the end|end before", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|cannot handle|unknown (pixel|raw)? ?mode|not available"
    r"|unrecognized (image|raw) mode",
    re.IGNORECASE,
)


_JPEG_2000 = re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")


def _lacks_its_end(data: bytes) -> bool:
    """True if the end that the format demands is missing, as far as that is easy to see."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-64:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:]
    if data.startswith(b"GIF8"):
        return b"\x3b" not in data[-2:]
    if _JPEG_2000.match(data):
        return b"\xff\xd9" not in data  # metadata may follow
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    if data.startswith((b"II", b"MM")):
        order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
        first = data[8:16] if 43 in data[2:4] else data[4:8]
        return len(data) < int.from_bytes(first, order)
    return False


def guess_content(data: bytes) -> str:
    """Returns the end of a message that says what the bytes may be, empty where unknown."""
    if data and not data.strip(b"\0"):
        return "; it begins with zeros alone, as an unfinished download"
    kind = _kind(data)
    if kind is not None:
        return f"; it looks like {kind.name}"
    start = data[:64].decode("ascii", "replace")
    return f"; it begins with the text {start[:40]!r}" if start.isprintable() else ""


def is_image(data: bytes) -> bool:
    """True if the bytes begin as those of an image, of a kind that is read or not."""
    kind = _kind(data)
    return kind is not None and kind.is_image


@dataclass(frozen=True)
class _FileKind:
    pattern: bytes
    """Matches its first bytes."""
    name: str
    is_image: bool = False
    is_read: bool = False


_FILE_KINDS = (
    _FileKind(rb"\xff\xd8\xff", "a JPEG image", True, True),
    _FileKind(rb"\x89PNG", "a PNG image", True, True),
    _FileKind(rb"GIF8", "a GIF image", True, True),
    _FileKind(rb"RIFF....WEBP", "a WebP image", True, True),
    _FileKind(rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF image", True, True),
    _FileKind(_JPEG_2000.pattern, "a JPEG 2000 image", True, True),
    _FileKind(rb"....ftypavi[fs]", "an AVIF image", True, True),
    _FileKind(rb"BM", "a BMP image", True, True),
    _FileKind(rb"P[1-6fF]\s", "a PPM image", True, True),
    _FileKind(rb"....ftyp(heic|heix|hevc|heim|mif1|msf1)", "a HEIC image", True),
    _FileKind(rb"8BPS", "a Photoshop file", True),
    _FileKind(rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image", True),
    _FileKind(rb"II\xbc\x01", "a JPEG XR image", True),
    _FileKind(rb"P7\s", "a PAM image", True),
    _FileKind(rb"\x76\x2f\x31\x01", "an OpenEXR image", True),
    _FileKind(rb"\0\0[\1\2]\0", "an icon", True),
    _FileKind(rb"(<\?xml.*)?\s*(<!--.*)?<svg", "an SVG drawing", True),
    _FileKind(rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    _FileKind(rb"%PDF", "a PDF"),
    _FileKind(
        rb"\s*<(!doctype html|html|head|body)", "an HTML page, as a server sends for an error"
    ),
    _FileKind(rb"\s*<\?xml|\s*<[a-z]+>", "XML, as a server sends for an error"),
    _FileKind(rb"\s*[{\[]", "JSON, as a server sends for an error"),
    _FileKind(rb"version https://git-lfs", "a pointer of Git LFS, in place of the file itself"),
    _FileKind(rb"PK\x03\x04", "a zip archive"),
    _FileKind(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file"),
    _FileKind(rb".{257}ustar", "a tar archive"),
    _FileKind(rb"PAR1", "a Parquet file"),
    _FileKind(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", "a video"),
)


def _kind(data: bytes) -> _FileKind | None:
    """Returns the first kind whose files begin like this."""
    head = data[:1024]
    matching = (
        kind for kind in _FILE_KINDS if re.match(kind.pattern, head, re.IGNORECASE | re.DOTALL)
    )
    return next(matching, None)
