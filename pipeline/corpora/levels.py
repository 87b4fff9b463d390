"""Scales samples of more than 8 bits to the 8 bits that the model takes.

Takes the samples that `tiff.py` and `decoding.py` read. The file says which values are black and
white, by its tags or the depth of its samples. Where it does not, nothing is guessed:

| samples | black and white |
|---|---|
| with SMinSampleValue and SMaxSampleValue | those two |
| unsigned, with a MaxSampleValue | 0 and the largest number of as many bits (4095 for 3871) |
| unsigned | 0 and the largest number of their depth |
| floating point within 0 and 1 | 0 and 1 |
| others | refused |

Unsigned samples of 16 bits and more with the two highest bits unused are refused too: some are dark
pictures, but most are 10, 12 or 14 bits of a sensor, which would come out black.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image


class UnsupportedPixels(ValueError):
    """Sound pixels that cannot be converted to RGB without a guess."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The tags that give the range of a file's samples, beside their depth."""

    black: float | None = None
    """SMinSampleValue: the value that is black."""
    white: float | None = None
    """SMaxSampleValue: the value that is white."""
    largest: int | None = None
    """MaxSampleValue: the largest value that was written."""


def grey(
    samples: Shaped[np.ndarray, "height width"], *, bits: int, limits: Range = Range()
) -> UInt8[np.ndarray, "height width"]:
    """Scales samples to 0 to 255.

    Args:
        bits: depth of the samples in the file, which may be less than that of the array.

    Raises:
        UnsupportedPixels: the file does not say which value is white.
    """
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise UnsupportedPixels("some samples are no finite numbers, which have no brightness")
    if limits.white is not None and limits.white > (limits.black or 0):
        return _between(samples, black=limits.black or 0, white=limits.white)
    least, most = samples.min(), samples.max()
    if samples.dtype.kind == "u":
        return _whole(samples, bits=bits, most=int(most), largest=limits.largest)
    if samples.dtype.kind == "f" and least >= 0 and most <= 1:
        return _between(samples, black=0, white=1)
    kind = "floating point beyond 0 to 1" if samples.dtype.kind == "f" else "signed"
    raise UnsupportedPixels(
        f"samples that are {kind} need the tags SMinSampleValue and SMaxSampleValue to say what is "
        f"black and white; these go from {least:.6g} to {most:.6g}"
    )


def check_bits_used(most: int, *, bits: int) -> None:
    """Refuses samples of 16 bits and more whose two highest bits are unused.

    Args:
        most: the largest sample. Zero passes: black is black at any depth.
    """
    if bits >= 16 and 0 < most < 1 << (bits - 2):
        raise UnsupportedPixels(
            f"samples of {bits} bits use {most.bit_length()} of them, up to {most}, and nothing "
            "says which value is white; write them over the full range, or in a TIFF with "
            "BitsPerSample or MaxSampleValue as they are"
        )


def check_high_bytes(image: Image.Image) -> None:
    """Checks an image of 16-bit samples, of which Pillow may have kept the high bytes."""
    if len(image.getbands()) == 1:
        bands = [np.asarray(image)]
    else:  # alpha is no colour
        names = [name for name in image.getbands() if name not in ("A", "a", "X")]
        bands = [np.asarray(image.getchannel(name)) for name in names]
    most = max(int(band.max()) for band in bands)
    check_bits_used(most << 8 if bands[0].dtype == np.uint8 else most, bits=16)


def _whole(
    samples: Shaped[np.ndarray, "height width"], *, bits: int, most: int, largest: int | None
) -> UInt8[np.ndarray, "height width"]:
    if largest is not None and most <= largest < 1 << bits:
        bits = max(1, largest.bit_length())
    else:
        check_bits_used(most, bits=bits)
    if bits < 8:
        return _between(samples, black=0, white=(1 << bits) - 1)
    return (samples >> (bits - 8)).astype(np.uint8)


def _between(
    samples: Shaped[np.ndarray, "height width"], *, black: float, white: float
) -> UInt8[np.ndarray, "height width"]:
    share = (samples.astype(np.float64) - black) / (white - black)
    return (share.clip(0, 1) * 255).round().astype(np.uint8)
