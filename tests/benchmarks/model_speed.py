"""Seconds that published models take for one photograph on one core, beside each other.

A photograph of 480 x 640 at the size that each model was published with, weights drawn at random
(their values do not change the time), the forward pass in float32 by one thread. CPU seconds, the
lowest of the rounds; on a busy machine trust the ratios alone. Prints one JSON line.

    python tests/benchmarks/model_speed.py [--rounds 3] [--models NAME NAME]
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

from maskformer import (
    MODELS,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
)

NAMES = (
    "maskformer-resnet50-coco-panoptic",
    "maskformer-swin-tiny-coco-panoptic",
    "maskformer-swin-small-coco-panoptic",
    "maskformer-swin-base-coco-panoptic",
    "maskformer-swin-large-coco-panoptic",
    "maskformer-swin-base-ade20k",
)
HEIGHT, WIDTH = 480, 640


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=sorted(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photo = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    seconds = {
        name: forward_seconds(name, photo, rounds=arguments.rounds) for name in arguments.models
    }
    line = {
        "benchmark": "model_speed",
        "processor": processor(),
        "photograph": [HEIGHT, WIDTH],
        "cpu_seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    print(json.dumps(line))


def forward_seconds(name: str, photo: np.ndarray, *, rounds: int) -> float:
    """Returns the CPU seconds of a model's forward pass, the lowest of the rounds."""
    model = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_pretrained(name)).eval()
    inputs = MaskFormerImageProcessor.from_pretrained(name)(images=photo, return_tensors="pt")
    taken = []
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first one prepares what is kept
            began = time.process_time()
            model(**inputs)
            taken.append(time.process_time() - began)
    return min(taken[1:])


def processor() -> str:
    """Names the CPU as the kernel does."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
