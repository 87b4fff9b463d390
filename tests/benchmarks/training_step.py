"""One training step of ours with all auxiliary losses, beside transformers' without.

Forward, loss and backward of a Swin-T, two images of 512x512 with 20 targets each, bfloat16
autocast where that is not emulated, the same weights and targets; each side in processes of its
own, in turns. Then the matching of 7 decoder layers, 8 images, 100 queries and 40 targets beside a
step of 8 images. On a GPU where there is one, and then with more images. Prints one JSON line.

    python tests/benchmarks/training_step.py [--repeats 5] [--images 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from machine import usual_precision

SIZE, NUM_LABELS, SEED = 512, 150, 7
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION = usual_precision()


def main() -> None:
    """Measures in turn and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=2 if DEVICE.type == "cpu" else 16)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "MODEL"))
    arguments = parser.parse_args()
    if arguments.one:
        what, folder = arguments.one
        print(json.dumps(SIDES[what](folder, arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        # In turns, so that what else the machine does meets both alike.
        runs = [{side: _run(side, folder, arguments) for side in SIDES} for _ in range(2)]
    theirs, ours, matching = ([run[side] for run in runs] for side in SIDES)
    result = {
        "benchmark": "training_step",
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": PRECISION,
        "images": arguments.images,
        "transformers_seconds": _median(theirs, "seconds"),
        "ours_seconds": _median(ours, "seconds"),
        "transformers_peak_mb": _median(theirs, "peak_mb"),
        "ours_peak_mb": _median(ours, "peak_mb"),
        "matching_seconds": _median(matching, "matching"),
        "step_of_8_seconds": _median(matching, "seconds"),
    }
    result["time_ratio"] = round(result["ours_seconds"] / result["transformers_seconds"], 3)
    result["memory_ratio"] = round(result["ours_peak_mb"] / result["transformers_peak_mb"], 3)
    result["matching_share"] = round(result["matching_seconds"] / result["step_of_8_seconds"], 3)
    print(json.dumps(result))


def save_model(folder: str) -> None:
    """A Swin-T with fresh weights, in the format that both sides read."""
    from maskformer import (
        MaskFormerConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerSwinConfig,
    )

    torch.manual_seed(SEED)
    backbone = MaskFormerSwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = MaskFormerConfig(backbone_config=backbone, num_labels=NUM_LABELS)
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)


def transformers_step(folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Their step, without auxiliary losses."""
    from transformers import MaskFormerForInstanceSegmentation

    model = MaskFormerForInstanceSegmentation.from_pretrained(folder).to(DEVICE)
    pixels, id_maps, labels = draw_step_batch(num_images=arguments.images, num_targets=20)
    ids = torch.arange(20, device=DEVICE)[:, None, None]
    masks = [(id_map == ids).float() for id_map in id_maps]
    return _measured(model, pixels, masks, labels, repeats=arguments.repeats)


def our_step(folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Our step, with the losses of all decoder layers."""
    model = _our_model(folder)
    pixels, id_maps, labels = draw_step_batch(num_images=arguments.images, num_targets=20)
    return _measured(model, pixels, _targets(id_maps, 20), labels, repeats=arguments.repeats)


def matching(folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Our matcher alone, and our step, for a batch of 8 with 40 targets each."""
    model = _our_model(folder)
    pixels, id_maps, labels = draw_step_batch(num_images=8, num_targets=40)
    targets = _targets(id_maps, 40)
    result = _measured(model, pixels, targets, labels, repeats=1)
    side = SIZE // 4
    masks = [torch.randn(8, 100, side, side, device=DEVICE) for _ in range(7)]
    classes = [torch.randn(8, 100, NUM_LABELS + 1, device=DEVICE) for _ in range(7)]
    times = _times(
        lambda: model.matcher.match_layers(masks, classes, targets, labels),
        repeats=arguments.repeats,
    )
    return {**result, "matching": statistics.median(times)}


SIDES: dict[str, Callable[[str, argparse.Namespace], dict[str, float]]] = {
    "transformers": transformers_step,
    "ours": our_step,
    "matching": matching,
}


def draw_step_batch(
    *, num_images: int, num_targets: int
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Noise, id maps of rectangles that part each image among its targets, and their labels."""
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randn(num_images, 3, SIZE, SIZE, generator=generator)
    rows = 4
    tile = torch.arange(num_targets).view(rows, num_targets // rows)
    id_map = tile.repeat_interleave(SIZE // rows, 0)
    columns = torch.arange(SIZE) * tile.shape[1] // SIZE
    labels = torch.randint(NUM_LABELS, (num_images, num_targets), generator=generator)
    id_maps = [id_map[:, columns].to(DEVICE, copy=True) for _ in range(num_images)]
    return pixels.to(DEVICE), id_maps, list(labels.to(DEVICE))


def _our_model(folder: str) -> Any:
    from maskformer import MaskFormerForInstanceSegmentation
    from pipeline.runtime.allocator import keep_memory

    keep_memory()  # as the jobs do
    model = MaskFormerForInstanceSegmentation.from_pretrained(folder, use_auxiliary_loss=True)
    return model.to(DEVICE)


def _targets(id_maps: list[torch.Tensor], num_targets: int) -> list[Any]:
    from maskformer import IdMap

    ids = torch.arange(num_targets, device=DEVICE)
    return [IdMap(map=id_map.short(), ids=ids) for id_map in id_maps]


def _measured(
    model: Any, pixels: torch.Tensor, masks: Any, labels: Any, *, repeats: int
) -> dict[str, float]:
    """Median seconds of a step, and the most memory in use over that before the first."""
    model.train()
    before = _peak_mb()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=PRECISION == "bf16"):
            loss = model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss
        loss.sum().backward()

    times = _times(step, repeats=repeats)
    return {"seconds": statistics.median(times), "peak_mb": _peak_mb() - before}


def _times(call: Callable[[], object], *, repeats: int) -> list[float]:
    call()
    times = []
    for _ in range(repeats):
        _wait()
        began = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - began)
    return times


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def _peak_mb() -> float:
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _run(what: str, folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, __file__, "--one", what, folder,
        f"--repeats={arguments.repeats}", f"--images={arguments.images}",
    ]  # fmt: skip
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ran.stdout.splitlines()[-1])


def _median(runs: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(run[name] for run in runs), 3)


if __name__ == "__main__":
    main()
