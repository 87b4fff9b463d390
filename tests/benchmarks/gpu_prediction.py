"""Predicts images a second of one actor on an H100, from counts of what it asks the GPU for.

Nothing here runs on a GPU. Counted on this machine, without numbers in memory: the operations of
inputs and model in bfloat16, the bytes and products of each, and the batches of a unit. Taken from
elsewhere, and to be measured: what a GPU does in a second, what launching and the host's part cost
(the constants below), and that readers keep up. A clockwork of the actor then plays a unit through.

Beside it stands transformers' pipeline, whose batches are of one image. Its model's operations are
counted, and cost their launches alone; what it does on the CPU before and after the model, one
thing after the other, is measured on a thread of this machine. Ten segments are found.

Prints one JSON line.

    python tests/benchmarks/gpu_prediction.py
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/pipeline/labelling")]

from coco_sizes import coco_sizes
from counted_operations import bytes_of, starts_something

from maskformer import (
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
)
from maskformer.network import window_attention
from maskformer.zoo import MODELS
from pipeline.corpora.reading import EncodedImage
from pipeline.labelling.reading.shape_order import (
    PlacedImage,
    Shape,
    ShapeOrder,
)
from pipeline.labelling.segmenting.batch_sizes import next_batch
from pipeline.labelling.segmenting.batches_in_flight import MOST_BATCHES, MOST_IMAGES
from pipeline.labelling.segmenting.compiled_model import logits_of

HeightWidth = tuple[int, int]
Block = list[tuple[int, float]]
"""Batches: images, and the pixels of each over those of a usual one."""

PRODUCTS = 600e12
"""Floating-point operations a second of bfloat16 products."""
BANDWIDTH = 2.8e12
"""Bytes a second."""
SHORTEST = 3e-6
"""Seconds of the shortest operation."""
REAL_OVER_IDEAL = 1.3
"""Of the time of kernels: profiles of such models show 1.2 to 1.5."""
LAUNCH = 13e-6
"""Seconds of the host for an operation, with the Python around it."""
POST_LAUNCHES, POST_GPU = 67, 0.03e-3
"""Of post-processing: operations of a batch (tests hold them), GPU seconds of an image."""
COPY, FINISH, BLOCK = 0.11e-3, 0.35e-3, 3e-3
"""Host seconds: into pinned memory and to rows, of an image; of a block besides."""
FINISHERS = 2
COMPILED_LAUNCHES, COMPILED_OVER_EAGER = 0.35, 0.69
"""Shares of operations and GPU time that are left where the model is compiled."""

USUAL = (480, 640)
BLOCK_BYTES = 256 * 3 * 512 * 704
PROCESSOR = MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 2048})
COUNTED_BATCH = 32
SEGMENTS = 10


@dataclass(frozen=True, kw_only=True)
class Work:
    """The demands of a batch."""

    launches: int
    gpu_seconds: float
    """Of an image of the usual shape."""
    gigabytes: float
    gigaflops: float


class _Counts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        if starts_something(operation):
            count = flop_registry.get(operation.overloadpacket)
            flops = count(*args, **(kwargs or {}), out_val=result) if count else 0
            self.operations.append((flops, bytes_of(operation, args, kwargs, result)))
        return result


@contextmanager
def _attention_is_one_operation(counts: _Counts) -> Iterator[None]:
    """Counts attention as a GPU's kernels do it; here it would be many operations."""
    plain = functional.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, attn_mask: Any = None, **_: Any) -> Any:
        batch, heads, length, width = query.shape
        out = query.new_empty(batch, length, heads, width).transpose(1, 2)
        numbers = sum(part.numel() for part in (query, key, value, out))
        if attn_mask is not None:
            numbers += attn_mask.numel()
        flops = 4 * batch * heads * length * key.shape[2] * width
        counts.operations.append((flops, numbers * query.element_size()))
        return out

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


def counted(name: str, *, as_before: bool) -> Work:
    """Counts a batch of the usual shape through inputs and model."""
    size = PROCESSOR.resized_size(USUAL)
    window_attention.saves_bytes = lambda tokens: not as_before
    with torch.device("meta"):
        model = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_dict(MODELS[name].config))
        model = model.to(torch.bfloat16).eval()
        pixels = torch.empty(COUNTED_BATCH, *size, 3, dtype=torch.uint8)
    if not as_before:
        model.keep_position_biases()
    counts = _Counts()
    with torch.no_grad(), _attention_is_one_operation(counts):
        logits_of(model, PROCESSOR.normalize(pixels, dtype=torch.bfloat16))  # makes what is kept
        counts.operations.clear()
        with counts:
            logits_of(model, PROCESSOR.normalize(pixels, dtype=torch.bfloat16))
    seconds = [max(f / PRODUCTS, b / BANDWIDTH, SHORTEST) for f, b in counts.operations]
    totals = [sum(each) / COUNTED_BATCH / 1e9 for each in zip(*counts.operations, strict=True)]
    return Work(
        launches=len(seconds),
        gpu_seconds=REAL_OVER_IDEAL * sum(seconds) / COUNTED_BATCH,
        gigabytes=totals[1],
        gigaflops=totals[0],
    )


def blocks(sizes: list[HeightWidth]) -> Iterator[list[HeightWidth]]:
    """Yields the images of each block of a unit, as readers send them beside GPUs."""

    def shape_of(image: EncodedImage) -> Shape:
        size = sizes[int(image.image_id)]
        padded_size = PROCESSOR.padded_size(PROCESSOR.resized_size(size))
        return Shape(size=size, padded_size=padded_size, num_bytes=3 * size[0] * size[1])

    order = ShapeOrder(shape_of=shape_of, run_bytes=BLOCK_BYTES, window_bytes=2**28)
    placed = (
        PlacedImage(
            position=number,
            image=EncodedImage(
                image_id=str(number), uri="", member=None, etag="", data=b"x" * 10**5
            ),
        )
        for number in range(len(sizes))
    )
    held: list[HeightWidth] = []
    num_bytes = 0
    for each in order(placed):
        held.append(sizes[each.position])
        num_bytes += 3 * held[-1][0] * held[-1][1]
        is_near_end = 0 < each.bytes_to_come <= 1.4 * BLOCK_BYTES - num_bytes
        if num_bytes >= BLOCK_BYTES and not is_near_end:
            yield held
            held, num_bytes = [], 0
    if held:
        yield held


def batches(sizes: list[HeightWidth], *, most: Callable[..., int]) -> list[Block]:
    """Returns the batches of each block: images, and their pixels over those of usual ones."""
    usual = PROCESSOR.resized_size(USUAL)
    found = []
    for block in blocks(sizes):
        by_shape = defaultdict(list)
        for size in block:
            by_shape[PROCESSOR.padded_size(PROCESSOR.resized_size(size))].append(size)
        of_block = []
        for shape, group in by_shape.items():
            while group:
                count = most(group, padded_size=shape, most_pixels=80 * 2**30 // 512)
                of_block.append((count, shape[0] * shape[1] / (usual[0] * usual[1])))
                group = group[count:]
        found.append(of_block)
    return found


def images_per_second(
    work: Work,
    of_blocks: list[Block],
    *,
    most_batches: int = MOST_BATCHES,
    most_images: int = MOST_IMAGES,
    is_compiled: bool = False,
) -> tuple[float, float]:
    """Plays blocks through launcher, GPU and finishers.

    Returns images/s and the share of the time that the GPU is busy.
    """
    launcher = gpu = busy = 0.0
    finishers: list[float] = [0.0] * FINISHERS
    in_flight: list[tuple[float, int]] = []
    for block in of_blocks:
        launcher += BLOCK
        for count, pixels in block:
            launches, seconds = work.launches, count * pixels * work.gpu_seconds
            if is_compiled and count >= 32:
                launches = int(launches * COMPILED_LAUNCHES)
                seconds *= COMPILED_OVER_EAGER
            while in_flight and (
                len(in_flight) >= most_batches
                or count + sum(each[1] for each in in_flight) > most_images
                or in_flight[0][0] <= launcher
            ):
                launcher = max(launcher, in_flight.pop(0)[0])
            begins = max(launcher + count * COPY, gpu)
            launcher += count * COPY + (launches + POST_LAUNCHES) * LAUNCH
            seconds += count * pixels * POST_GPU
            gpu = max(begins + seconds, launcher)  # it cannot end before the last launch
            busy += seconds
            finisher = finishers.index(min(finishers))
            finishers[finisher] = max(finishers[finisher], gpu) + count * FINISH
            in_flight = sorted([*in_flight, (finishers[finisher], count)])
    images = sum(count for block in of_blocks for count, _ in block)
    return images / max(finishers), busy / max(finishers)


def _at_most_32(group: list[HeightWidth], **_: Any) -> int:
    return min(32, len(group))


def transformers_pipeline(name: str) -> dict[str, Any]:
    """Counts the launches of an image in transformers' pipeline, and times its work on the CPU."""
    from transformers import pipeline

    image = Image.effect_noise(USUAL[::-1], 64).convert("RGB")
    with tempfile.TemporaryDirectory() as folder:
        config = MaskFormerConfig.from_dict(MODELS[name].config)
        MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
        PROCESSOR.save_pretrained(folder)
        segment = pipeline("image-segmentation", model=folder, dtype=torch.float32)
    inputs = segment.preprocess(image)
    counts = _Counts()
    with torch.no_grad(), _attention_is_one_operation(counts), counts:
        outputs = segment.forward(inputs)
    _plant_segments(outputs)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        segment.preprocess(image)
        found = segment.postprocess(outputs, threshold=0.5)
        seconds.append(time.process_time() - began)
    assert len(found) == SEGMENTS
    launching = len(counts.operations) * LAUNCH
    return {
        "launches_of_an_image": len(counts.operations),
        "images_per_second": round(1 / (launching + min(seconds))),
        "of_launches_alone": round(1 / launching),
    }


def _plant_segments(outputs: Any) -> None:
    """Makes ten queries sure of a stripe each, and the others of nothing."""
    outputs.class_queries_logits.zero_()[..., -1] = 20
    outputs.class_queries_logits[:, np.arange(SEGMENTS), np.arange(SEGMENTS)] = 40
    outputs.masks_queries_logits.fill_(-20)
    edges = np.linspace(0, outputs.masks_queries_logits.shape[-1], SEGMENTS + 1).astype(int)
    for query, (left, right) in enumerate(pairwise(edges)):
        outputs.masks_queries_logits[:, query, :, left:right] = 20


def main() -> None:
    """Counts, predicts and prints."""
    torch.set_num_threads(1)
    corpora = {"equal": [USUAL] * 1000, "mixed": coco_sizes(1000)}
    found: dict[str, Any] = {}
    for name in ("swin-tiny", "swin-large"):
        for as_before in (True, False):
            work = counted(f"maskformer-{name}-coco-panoptic", as_before=as_before)
            result: dict[str, Any] = {
                "launches_of_a_batch": work.launches + POST_LAUNCHES,
                "gigabytes_of_an_image": round(work.gigabytes, 3),
                "gigaflops_of_an_image": round(work.gigaflops, 1),
            }
            for corpus, sizes in corpora.items():
                of_blocks = batches(sizes, most=_at_most_32 if as_before else next_batch)
                counts = [count for block in of_blocks for count, _ in block]
                several = of_blocks * 10
                bounds = {"most_batches": 3, "most_images": 96} if as_before else {}
                rate, busy = images_per_second(work, several, **bounds)
                result[corpus] = {
                    "images_of_a_batch": round(sum(counts) / len(counts), 1),
                    "images_per_second": round(rate),
                    "gpu_busy": round(busy, 2),
                }
                if not as_before:
                    rate, busy = images_per_second(work, several, is_compiled=True)
                    result[corpus]["compiled"] = {
                        "images_per_second": round(rate),
                        "gpu_busy": round(busy, 2),
                    }
            found[f"{name}, {'before' if as_before else 'now'}"] = result
        found[f"{name}, transformers' pipeline"] = transformers_pipeline(
            f"maskformer-{name}-coco-panoptic"
        )
    print(json.dumps({"benchmark": "gpu_prediction", "is_measured": False, "cases": found}))


if __name__ == "__main__":
    main()
