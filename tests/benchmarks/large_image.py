"""Peak memory of post-processing and of sliding windows on an image of 4000 x 6000, 150 labels.

Each case runs in a process of its own, which first makes its inputs and works on a small image, so
that what is counted is what the work takes beyond its inputs and its code. Post-processing takes
the logits of 100 queries, at the resolution that a short edge of 640 gives and at that of the image
itself. Windows are looked at by one layer of random weights, so that what the model takes is not
counted. Prints one JSON line; megabytes are 2^20 bytes.

    python tests/benchmarks/large_image.py [--height 4000] [--width 6000] [--case NAME]
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from maskformer import MaskFormerImageProcessor, SemanticTestTimeAugmentation, SlidingWindows
from maskformer.postprocessing.instances import instance_segmentation, keep_instance
from maskformer.postprocessing.panoptic import keep_panoptic, panoptic_segmentation
from maskformer.postprocessing.semantic import semantic_segmentation, semantic_segments

NUM_LABELS, NUM_QUERIES = 150, 100
BOUND_MB = 1024
Work = Callable[[], object]


def main() -> None:
    """Runs each case in a process, or the one that is named in this one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--case", choices=sorted(CASES))
    arguments = parser.parse_args()
    size = arguments.height, arguments.width
    if arguments.case:
        print(json.dumps(peak_of_work(CASES[arguments.case], size=size)))
        return
    program = [sys.executable, __file__, f"--height={size[0]}", f"--width={size[1]}"]
    cases = {
        name: json.loads(
            subprocess.run([*program, f"--case={name}"], check=True, capture_output=True).stdout
        )
        for name in CASES
    }
    result = {
        "benchmark": "large_image",
        "size": size,
        "labels": NUM_LABELS,
        "cases": cases,
        "highest_mb": max(case["beyond_inputs_mb"] for case in cases.values()),
        "aim_mb": BOUND_MB,
    }
    print(json.dumps(result))


def peak_of_work(
    case: Callable[[tuple[int, int]], Work], *, size: tuple[int, int]
) -> dict[str, Any]:
    """The peak of the process's memory while it works, over what it holds before."""
    with torch.inference_mode():
        case((size[0] // 10, size[1] // 10))()
        work = case(size)
        before = resident_mb("VmRSS")
        # Forget the peak of making the inputs.
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    return {
        "beyond_inputs_mb": round(resident_mb("VmHWM") - before),
        "seconds": round(seconds, 1),
    }


def resident_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise AssertionError(name)


def random_logits(mask_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Classes that are all kept, and masks that share the image among them."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(NUM_QUERIES, NUM_LABELS + 1, generator=generator) * 4
    classes[:, -1] = -4
    coarse = torch.randn(1, NUM_QUERIES, 12, 18, generator=generator) * 6
    return classes, nn.functional.interpolate(coarse, size=mask_size, mode="bilinear")[0]


def network_sizes(size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Returns the resized and the padded size, as published, at a short edge of 640."""
    processor = MaskFormerImageProcessor(
        size={"shortest_edge": 640, "longest_edge": 2560}, resize_rule="detectron2"
    )
    resized = processor.resized_size(size)
    return {"image_size": resized, "padded_size": processor.padded_size(resized)}


def semantic(size: tuple[int, int]) -> Work:
    scores = random_logits((160, 240))
    return lambda: semantic_segmentation(*scores, size)


def semantic_published(size: tuple[int, int]) -> Work:
    sizes = network_sizes(size)
    scores = random_logits(tuple(side // 4 for side in sizes["padded_size"]))
    return lambda: semantic_segmentation(*scores, size, **sizes)


def semantic_rows(size: tuple[int, int]) -> Work:
    scores = random_logits((160, 240))
    return lambda: semantic_segments(*scores, size)


def semantic_unresized(size: tuple[int, int]) -> Work:
    scores = random_logits((size[0] // 4, size[1] // 4))
    return lambda: semantic_segmentation(*scores, size)


def panoptic_work(size: tuple[int, int]) -> Work:
    classes, masks = random_logits((160, 240))
    kept = keep_panoptic(classes, threshold=0.0)
    return lambda: panoptic_segmentation(masks[kept.queries], kept, size)


def panoptic_unresized(size: tuple[int, int]) -> Work:
    classes, masks = random_logits((size[0] // 4, size[1] // 4))
    kept = keep_panoptic(classes, threshold=0.0)
    masks = masks[kept.queries]
    return lambda: panoptic_segmentation(masks, kept, size)


def instance(size: tuple[int, int]) -> Work:
    classes, masks = random_logits((160, 240))
    kept = keep_instance(classes, threshold=0.0)
    masks = masks[kept.queries]
    return lambda: instance_segmentation(masks, kept, size, threshold=0.0)


class OneLayer(nn.Module):
    """Masks of patches, and classes that never change."""

    def __init__(self) -> None:
        super().__init__()
        classes, _ = random_logits((1, 1))
        self.class_logits = nn.Parameter(classes)
        self.patches = nn.Conv2d(3, NUM_QUERIES, 4, stride=4)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        masks = self.patches(pixel_values)
        return SimpleNamespace(
            class_queries_logits=self.class_logits.expand(len(masks), -1, -1),
            masks_queries_logits=masks,
        )


def noisy_picture(size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (12, 18, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def windows(size: tuple[int, int]) -> tuple[SlidingWindows, Image.Image]:
    """Windows that the model is given as they are."""
    side = min(640, min(size))
    processor = MaskFormerImageProcessor(size={"shortest_edge": side, "longest_edge": 2560})
    return (
        SlidingWindows(OneLayer(), processor, window_size=(side, side), overlap=side // 5),
        noisy_picture(size),
    )


def windows_semantic(size: tuple[int, int]) -> Work:
    sliding, image = windows(size)
    return lambda: sliding.semantic(image)


def windows_panoptic(size: tuple[int, int]) -> Work:
    sliding, image = windows(size)
    return lambda: sliding.panoptic(image, threshold=0.0)


def augmenting_work(size: tuple[int, int]) -> Work:
    processor = MaskFormerImageProcessor(size={"shortest_edge": 640, "longest_edge": 2560})
    augmentation = SemanticTestTimeAugmentation(OneLayer(), processor)
    image = noisy_picture(size)
    return lambda: augmentation(image)


CASES: dict[str, Callable[[tuple[int, int]], Work]] = {
    "semantic": semantic,
    "semantic_published": semantic_published,
    "semantic_rows": semantic_rows,
    "semantic_unresized": semantic_unresized,
    "panoptic": panoptic_work,
    "panoptic_unresized": panoptic_unresized,
    "instance": instance,
    "windows_semantic": windows_semantic,
    "windows_panoptic": windows_panoptic,
    "augmented": augmenting_work,
}


if __name__ == "__main__":
    main()
