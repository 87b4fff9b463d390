"""Pixels that a GPU takes, resizes and decodes, against those that a CPU makes."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from waits import no_hidden_waits

from maskformer import MaskFormerImageProcessor
from pipeline.corpora.reading import EncodedImage, ReadSettings
from pipeline.labelling.reading.unit_loader import BLOCK, image_row
from pipeline.labelling.segmenting.device_jpegs import decode_block
from pipeline.labelling.segmenting.model_inputs import ModelInputs, images_of

GPU = torch.device("cuda")
SIZES = [(427, 640), (426, 640), (426, 640), (640, 427), (300, 500), (1024, 900)]


def photo(number: int, size: tuple[int, int], **options) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=92, **options)
    return buffer.getvalue()


def block(processor: MaskFormerImageProcessor, *, decode: str = "exact", **options) -> pa.Table:
    rows = []
    for number, size in enumerate(SIZES):
        image = EncodedImage(
            image_id=str(number), uri="u", member=None, etag="e", data=photo(number, size)
        )
        row = image_row(image, reading=ReadSettings(decode=decode), processor=processor, **options)
        rows.append({"unit_id": "u", "kind": "image", "position": number, **row})
    return pa.Table.from_pylist(rows, schema=BLOCK)


@pytest.mark.parametrize("rule", ["transformers", "detectron2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_that_a_gpu_resizes_are_those_of_pixels_that_the_cpu_resized(rule, dtype):
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 512, "longest_edge": 2048}, resize_rule=rule
    )
    on_gpu = ModelInputs(processor, device=GPU, dtype=dtype)
    on_cpu = ModelInputs(processor, device=torch.device("cpu"), dtype=dtype)
    decoded = images_of(block(processor, is_resized=False))
    resized = images_of(block(processor))
    assert {image.pixels.shape[:2] for image in decoded} == {*SIZES}
    for _ in range(3):  # the slots of the ring, each more than once
        for ours, theirs in zip(decoded, resized, strict=True):
            found = on_gpu([ours])
            assert torch.equal(found, on_gpu([theirs]))
            # The CPU rounds between the product and the sum of normalisation.
            torch.testing.assert_close(found.cpu(), on_cpu([theirs]))
    together, alone = on_gpu(decoded[1:3]), [on_gpu([image]) for image in decoded[1:3]]
    assert torch.equal(together, torch.cat(alone))


def test_inputs_are_made_without_a_wait():
    processor = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})
    inputs = ModelInputs(processor, device=GPU, dtype=torch.bfloat16)
    images = images_of(block(processor, is_resized=False))
    inputs(images[:1])  # constants that all sizes share
    with no_hidden_waits():
        for _ in range(2):
            for image in images:  # most are of sizes not seen before
                inputs([image])


def test_decoding_leaves_alone_what_the_model_still_uses():
    """A tensor that was summed and given up holds its numbers until the GPU gets to the sum."""
    processor = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})
    encoded = block(processor, decode="gpu", is_resized=False)
    expected = [image.pixels.cpu() for image in decode_block(encoded, device=GPU).images]
    torch.cuda.empty_cache()
    busy = torch.randn(4096, 4096, device=GPU)
    sizes = [3 * height * width for height, width in SIZES]
    in_use = [torch.ones(size, dtype=torch.uint8, device=GPU) for size in sizes]
    torch.cuda.synchronize()
    for _ in range(100):
        busy = (busy @ busy).div_(busy.norm())
    sums = [each.sum() for each in in_use]
    in_use.clear()
    decoded = decode_block(encoded, device=GPU).images
    assert [int(each) for each in sums] == sizes
    assert all(torch.equal(a.pixels.cpu(), b) for a, b in zip(decoded, expected, strict=True))


def test_jpegs_that_the_gpu_decodes_are_close_to_pillows():
    processor = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})
    encoded = block(processor, decode="gpu", is_resized=False)
    assert encoded["jpeg"].null_count == 0
    decoded = decode_block(encoded, device=GPU)
    assert len(decoded.images) == len(SIZES)
    expected = images_of(block(processor, is_resized=False))
    for ours, theirs in zip(decoded.images, expected, strict=True):
        assert ours.pixels.is_cuda
        difference = np.abs(ours.pixels.cpu().numpy().astype(int) - theirs.pixels)
        assert difference.mean() < 1
        assert difference.max() < 16
