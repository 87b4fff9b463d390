"""Seconds from the command to rows: 20 photographs, beside a loop over transformers.

Both are processes of their own, imports included: `maskformer label` with the model that is
shipped, and transformers' model with its own post-processing. Transformers has no encoder of
pixels: its model is the same without one, of random weights, which computes less and finds nothing
to write. Each runs once to warm the disk, then in turns; printed are the best wall-clock seconds
and the CPU seconds of that run, of all processes. Prints one JSON line.

    python tests/benchmarks/first_rows.py [--images 20] [--rounds 3] [--model FOLDER] [--ray]
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from photographs import write_photographs

from maskformer import (
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
)

LOOK_EVERY_SECONDS = 0.05
THRESHOLDS = {"threshold": 0.5, "mask_threshold": 0.5, "overlap_mask_area_threshold": 0.8}


def main() -> None:
    """Measure and print; with --transformers, be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=str(ROOT / "pipeline" / "demo" / "sample_model"))
    parser.add_argument("--ray", action="store_true", help="a cluster of this machine as well")
    parser.add_argument("--transformers", help="the folder of photographs")
    given = parser.parse_args()
    if given.transformers:
        loop_over_transformers(Path(given.transformers), model=given.model)
        return
    with tempfile.TemporaryDirectory() as name:
        photographs = Path(name) / "photographs"
        write_photographs(photographs, shared=ROOT.parent / "shared", number=given.images)
        label = [
            sys.executable, "-m", "pipeline.cli", "label", f"--corpus={photographs}",
            f"--model={given.model}",
        ]  # fmt: skip
        commands = {
            "label": [*label, "--local"],
            "transformers": [
                sys.executable, __file__, f"--transformers={photographs}",
                f"--model={_without_encoder(given.model, folder=Path(name) / 'model')}",
            ],
        }  # fmt: skip
        if given.ray:
            commands["label on Ray"] = [*label, "--local=false"]
        runs: dict[str, list[tuple[float, float, int]]] = {each: [] for each in commands}
        for number in range(given.rounds + 1):
            for each, command in commands.items():
                table = [] if each == "transformers" else [f"--table={name}/{each}-{number}"]
                runs[each].append(measured([*command, *table]))
    best = {each: min(found[1:]) for each, found in runs.items()}
    result = {
        each: {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1), "processes": processes}
        for each, (wall, cpu, processes) in best.items()
    }
    print(json.dumps({"benchmark": "first_rows", "images": given.images, **result}))


def _without_encoder(model: str, *, folder: Path) -> str:
    """Writes a model that transformers can load where it cannot load the given one."""
    config = MaskFormerConfig.from_pretrained(model)
    if config.is_in_transformers:
        return model
    config.pixel_decoder, config.transformer_in_feature = "fpn", "res5"
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    MaskFormerImageProcessor.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def measured(command: list[str]) -> tuple[float, float, int]:
    """Returns wall seconds, CPU seconds and the number of a command's processes.

    Looks at the processes now and then: those of Ray are not reaped by who started them.
    """
    began = time.monotonic()
    cpu: dict[int, float] = {}
    with tempfile.TemporaryFile() as output:
        process = psutil.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        while process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for each in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        times = each.cpu_times()
                        cpu[each.pid] = times.user + times.system
            time.sleep(LOOK_EVERY_SECONDS)
        seconds = time.monotonic() - began
        if process.returncode:
            output.seek(0)
            raise RuntimeError(output.read().decode())
    return seconds, sum(cpu.values()), len(cpu)


def loop_over_transformers(photographs: Path, *, model: str) -> None:
    """Segments each photograph with transformers and writes COCO run lengths."""
    import numpy as np
    import torch
    from PIL import Image
    from pycocotools import mask as coco
    from transformers import MaskFormerForInstanceSegmentation, MaskFormerImageProcessor

    processor = MaskFormerImageProcessor.from_pretrained(model)
    loaded = MaskFormerForInstanceSegmentation.from_pretrained(model, dtype=torch.float32)
    network = loaded.eval()
    rows = []
    for path in sorted(photographs.iterdir()):
        image = Image.open(path).convert("RGB")
        with torch.inference_mode():
            output = network(**processor(images=image, return_tensors="pt"))
        (found,) = processor.post_process_panoptic_segmentation(
            output, target_sizes=[image.size[::-1]], label_ids_to_fuse=set(), **THRESHOLDS
        )
        segmentation = found["segmentation"].numpy()
        for segment in found["segments_info"]:
            mask = np.asfortranarray(segmentation == segment["id"])
            rows.append(
                [path.name, segment["label_id"], coco.encode(mask.view(np.uint8))["counts"]]
            )
    print(len(rows))


if __name__ == "__main__":
    main()
