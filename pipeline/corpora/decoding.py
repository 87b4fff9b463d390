"""Decoding: an image's encoded bytes to upright RGB pixels, or an `ImageError`.

Takes what `reading.py` found; the loader resizes what comes out. Only formats of pixels are tried,
none that runs a program (PostScript) or draws (SVG, PDF). Of animations and files of several pages
the first image counts. A damaged image is an error, never half a picture, as far as its format
lets the damage be seen.

| class | what was found |
|---|---|
| EmptyFile | no bytes |
| NotAnImage | bytes that begin like no image, as a web page called .jpg |
| UnsupportedFormat | an image of a kind that is not read here, as HEIC or PSD |
| TruncatedImage | an image that ends before its end |
| DamagedImage | an image whose bytes contradict its format |
| DecompressionBomb | more pixels than `max_pixels`, by the header; none was decoded |
| UnsupportedPixels | a kind of pixels that Pillow cannot decode, or not turn into RGB |
| OutOfMemory | an image within `max_pixels` that there was no memory for |

`labelling/` adds what only a process that ended can tell: DecoderCrashed, DecoderHung,
SegmenterCrashed and SegmenterHung; and SegmenterOutOfMemory, of the model's device.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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

HeightWidth = tuple[int, int]

_FORMATS: list[str] = [
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
    if name in Image.OPEN
]

# What an image's metadata say wrong is nobody's business here; pixels that are wrong are errors.
warnings.filterwarnings("ignore", module=r"PIL(\..*)?")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class ImageError(Exception):
    """What is wrong with one image, as it goes into the table."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(error_class, message)
        self.error_class = error_class
        """A name that stays the same from version to version, to count errors by."""
        self.message = message
        """For people: which image, what was found, what would be right."""

    def __str__(self) -> str:
        return f"{self.error_class}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image, and how large it is where it comes from."""

    image: Image.Image
    """Upright and RGB; smaller than the original where it was decoded at a reduced scale."""
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
    """The first image in the bytes.

    Args:
        name: where the image lies, for messages.
        mode: `fast` decodes a JPEG at 1/2, 1/4 or 1/8 of its scale where both sides stay at or
            above `target_size`; everything else is decoded as with `exact`.
        target_size: what the upright image will be resized to, or what gives that for the size of
            the upright image.

    Raises:
        ImageError: of one of the classes above.
    """
    if mode == "fast" and target_size is None:
        raise ValueError("mode='fast' needs a target_size, below which no image is decoded")
    if not data:
        raise ImageError("EmptyFile", f"{name}: the file is empty")
    _let_pillow_allow(max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, name=name, max_pixels=max_pixels)
            full_size = None
            if mode == "fast" and image.format in ("JPEG", "MPO"):
                full_size = _reduce(image, target_size=target_size)
            image.load()  # first: it may turn the image upright, as a TIFF, and say so only then
            rgb = to_rgb(image)
            if image.format == "JPEG2000" and _lacks_its_end(data):
                raise OSError("the end mark is missing")  # its decoder fills up what it lacks
            # Copied where nothing had to be converted: the file's decoder goes, its pixels stay.
            rgb = rgb.copy() if rgb is image else rgb
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder trips over is in these bytes
        raise _image_error(error, data, name=name, max_pixels=max_pixels) from error
    height, width = full_size or (rgb.height, rgb.width)
    return Decoded(image=rgb, height=height, width=width)


def image_size(data: bytes, *, name: str, max_pixels: int) -> HeightWidth:
    """The size of the first image, upright, by its header alone.

    Raises:
        ImageError: there is no header of an image, or it claims more than `max_pixels`.
    """
    if not data:
        raise ImageError("EmptyFile", f"{name}: the file is empty")
    _let_pillow_allow(max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, name=name, max_pixels=max_pixels)
            # Pillow gives the size of a TIFF upright already.
            is_turned = _is_turned(image) and image.format != "TIFF"
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except ImageError:
        raise
    except Exception as error:
        raise _image_error(error, data, name=name, max_pixels=max_pixels) from error


def _let_pillow_allow(max_pixels: int) -> None:
    """Raises Pillow's own bound, which is the process's, where ours would have no effect."""
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
    """Sets the decoder to the smallest scale that is allowed; gives the full upright size."""
    is_turned = _is_turned(image)
    full_size = (image.width, image.height) if is_turned else (image.height, image.width)
    height, width = target_size(full_size) if callable(target_size) else (target_size or full_size)
    image.draft(None, (height, width) if is_turned else (width, height))
    return full_size


def _is_turned(image: Image.Image) -> bool:
    """Whether height and width change places when the image is put upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1)) in (5, 6, 7, 8)
    except Exception:  # damaged metadata say nothing about the pixels
        return False


def _image_error(error: Exception, data: bytes, *, name: str, max_pixels: int) -> ImageError:
    """What an exception of Pillow or its decoders means for the image."""
    said = _one_line(error)
    if isinstance(error, Image.DecompressionBombError):
        bound = f"an image may have at most {max_pixels} pixels"
        hint = "raise max_image_pixels to allow it"
        return ImageError("DecompressionBomb", f"{name}: {bound}; {said}; {hint}")
    if isinstance(error, MemoryError):
        return ImageError(
            "OutOfMemory",
            f"{name}: no memory to decode {len(data)} bytes; lower max_image_pixels or give the "
            "reading tasks more",
        )
    kind = _kind(data)
    if isinstance(error, UnidentifiedImageError) and (kind is None or not kind.is_read):
        error_class = "UnsupportedFormat" if kind is not None and kind.is_image else "NotAnImage"
        hint = what_it_looks_like(data)
        return ImageError(error_class, f"{name}: it is no image in a format that is read{hint}")
    if isinstance(error, UnidentifiedImageError):
        said = "its header cannot be read"
    if "truncated" in said.lower() or _lacks_its_end(data):
        return ImageError("TruncatedImage", f"{name}: it ends after {len(data)} bytes: {said}")
    if isinstance(error, NotImplementedError) or _UNSUPPORTED.search(said):
        return ImageError("UnsupportedPixels", f"{name}: {said}")
    return ImageError("DamagedImage", f"{name}: {said}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError) and text else f"{type(error).__name__} {text}".strip()


_UNSUPPORTED = re.compile(
    r"unsupported|not supported|cannot handle|unknown (pixel|raw)? ?mode|not available"
    r"|unrecognized (image|raw) mode",
    re.IGNORECASE,
)


_JPEG_2000 = re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")


def _lacks_its_end(data: bytes) -> bool:
    """Whether the end that the format asks for is missing, as far as that is easily told."""
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
        return len(data) < int.from_bytes(data[4:8], order)
    return False


def what_it_looks_like(data: bytes) -> str:
    """The end of a message that says what the bytes may be, empty where that cannot be told."""
    if data and not data.strip(b"\0"):
        return "; it begins with zeros alone, as an unfinished download"
    kind = _kind(data)
    if kind is not None:
        return f"; it looks like {kind.name}"
    start = data[:64].decode("ascii", "replace")
    return f"; it begins with the text {start[:40]!r}" if start.isprintable() else ""


def is_image(data: bytes) -> bool:
    """Whether the bytes begin as those of an image do, be it of a kind that is read or not."""
    kind = _kind(data)
    return kind is not None and kind.is_image


@dataclass(frozen=True)
class _FileKind:
    pattern: bytes
    """Of its first bytes."""
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
    _FileKind(rb"P[1-6]\s", "a PPM image", True, True),
    _FileKind(rb"....ftyp(heic|heix|hevc|heim|mif1|msf1)", "a HEIC image", True),
    _FileKind(rb"8BPS", "a Photoshop file", True),
    _FileKind(rb"\0\0\0\x0cJXL |\xff\x0a", "a JPEG XL image", True),
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
    """The first kind whose files begin like this."""
    head = data[:1024]
    matching = (
        kind for kind in _FILE_KINDS if re.match(kind.pattern, head, re.IGNORECASE | re.DOTALL)
    )
    return next(matching, None)
