"""Images that end the process which decodes or segments them, and the environment they need."""

from pathlib import Path

from as_files import encode_image
from PIL import Image

POISON = {"PYTHONPATH": str(Path(__file__).parent / "poisoned")}
"""Environment of a job in which the images below do harm."""


def solid(colour: tuple[int, int, int]) -> bytes:
    return encode_image(Image.new("RGB", (64, 48), colour))


DECODER_CRASHES = {"crash.png": (b"poison:crash\n", "DecoderCrashed")}
SEGMENTER_CRASHES = {"segmenter.png": (solid((255, 0, 254)), "SegmenterCrashed")}
HANGS = {
    "hang.png": (b"poison:hang\n", "DecoderHung"),
    "segmenter-hang.png": (solid((254, 0, 255)), "SegmenterHung"),
}
MEMORY = {"memory.png": (b"poison:memory\n", "OutOfMemory")}
MORE_CRASHES = {"abort.png": (b"poison:abort\n", "DecoderCrashed")}
