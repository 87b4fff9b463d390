"""The model by torch and by ONNX Runtime, side by side: the forward, and all of an actor's work.

The sample model, and a Swin-T of random weights, on one thread and on two. Both engines are in this
process and take turns, scene by scene. Prints one JSON line for each model and number of threads:
images for each second that passed and for each CPU second, the fastest of the repeats, and the peak
memory of an actor, which is a process of its own. The first run exports the models.

    python tests/benchmarks/engines.py [--models sample swin-t] [--images 6] [--repeats 5]
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from maskformer import MaskFormerConfig, MaskFormerForInstanceSegmentation, MaskFormerImageProcessor
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.scene import draw_scene
from pipeline.labelling.model import actor_files, read_model
from pipeline.labelling.reading.unit_loader import BLOCK
from pipeline.labelling.segmenting.model_inputs import images_of
from pipeline.labelling.segmenting.segmenter import Segmenter
from pipeline.labelling.settings import SegmentSettings

ENGINES = ("torch", "onnx")
SIZES = ((480, 640), (640, 480), (427, 640))
SWIN_T = "maskformer-swin-tiny-coco-panoptic"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["sample", "swin-t"])
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--memory", nargs=2, metavar=("FOLDER", "ENGINE"))
    arguments = parser.parse_args()
    if importlib.util.find_spec("onnxruntime") is None:
        print("skipped: onnxruntime is not installed; pip install '.[onnx]'")
        return
    if arguments.memory:
        folder, engine = arguments.memory
        scenes = block_of(Path(folder), num_images=arguments.images)
        segmenter(Path(folder), engine, num_threads=1)(scenes)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models:
            folder = SAMPLE_MODEL if name == "sample" else write_swin_t(Path(temporary))
            memory = {each: peak_megabytes(folder, each) for each in ENGINES}
            for num_threads in arguments.threads:
                measured = measure(
                    folder,
                    num_threads=num_threads,
                    num_images=arguments.images,
                    repeats=arguments.repeats,
                )
                case = {f"{name}, threads {num_threads}": measured | {"actor_peak_mb": memory}}
                print(json.dumps({"benchmark": "engines", **case}), flush=True)


def write_swin_t(folder: Path) -> Path:
    """Writes random weights, always the same, that keep a few queries of an image."""
    torch.manual_seed(0)
    model = MaskFormerForInstanceSegmentation(MaskFormerConfig.from_pretrained(SWIN_T))
    model.class_predictor.weight.data.mul_(8)
    model.save_pretrained(folder)
    MaskFormerImageProcessor(size={"shortest_edge": 512, "longest_edge": 1333}).save_pretrained(
        folder
    )
    return folder


def segmenter(folder: Path, engine: str, *, num_threads: int) -> Segmenter:
    settings = SegmentSettings(engine=engine)
    model = read_model(str(folder), resize_rule="transformers")
    files = actor_files(model, segmenting=settings)
    settings = dataclasses.replace(settings, label_ids_to_fuse=model.stuff)
    return Segmenter(files, settings=settings, num_threads=num_threads)


def block_of(folder: Path, *, num_images: int) -> pa.Table:
    """Returns drawn scenes at the model's size, as readers give them to actors."""
    processor = MaskFormerImageProcessor.from_pretrained(folder)
    rows = []
    for index in range(num_images):
        height, width = SIZES[index % len(SIZES)]
        scene = Image.fromarray(draw_scene(index, seed=3, size=(height, width)).pixels)
        pixels = np.asarray(processor.resize(scene))
        rows.append(
            {
                "unit_id": "unit", "position": index, "image_id": f"{index}", "uri": f"{index}",
                "kind": "image", "status": "ok", "height": height, "width": width,
                "pixels_height": pixels.shape[0], "pixels_width": pixels.shape[1],
                "pixels": pixels.tobytes(),
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=BLOCK)


def peak_megabytes(folder: Path, engine: str) -> int:
    command = [sys.executable, __file__, "--memory", str(folder), engine]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(
    folder: Path, *, num_threads: int, num_images: int, repeats: int
) -> dict[str, dict[str, dict[str, float]]]:
    torch.set_num_threads(num_threads)
    block = block_of(folder, num_images=num_images)
    segmenters = {name: segmenter(folder, name, num_threads=num_threads) for name in ENGINES}
    forwards, actors = {}, {}
    for name, each in segmenters.items():
        of_batches = each._batch_segmenter
        inputs = [of_batches.model_inputs([image]) for image in images_of(block)]
        decode = torch.inference_mode()(of_batches.model.decode_queries)
        forwards[name] = [functools.partial(decode, pixels) for pixels in inputs]
        blocks = [block.slice(index, 1) for index in range(num_images)]
        actors[name] = [functools.partial(each, one) for one in blocks]
    return {
        "forward": compared(forwards, repeats=repeats),
        "actor": compared(actors, repeats=repeats),
    }


def compared(
    calls: dict[str, Sequence[Callable[[], object]]], *, repeats: int
) -> dict[str, dict[str, float]]:
    """Calls each engine in turn, image by image; the first round is not counted."""
    wall: dict[str, list[list[float]]] = {name: [] for name in calls}
    cpu: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        rounds = {name: ([], []) for name in calls}
        for images in zip(*calls.values(), strict=True):
            for name, call in zip(calls, images, strict=True):
                began, began_cpu = time.perf_counter(), time.process_time()
                call()
                rounds[name][0].append(time.perf_counter() - began)
                rounds[name][1].append(time.process_time() - began_cpu)
        if number:
            for name, (seconds, cpu_seconds) in rounds.items():
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
    found = {
        name: {
            "images_per_second": round(1 / np.min(wall[name], axis=0).mean(), 2),
            "images_per_cpu_second": round(1 / np.min(cpu[name], axis=0).mean(), 2),
        }
        for name in calls
    }
    over = {each: round(rate / found["torch"][each], 2) for each, rate in found["onnx"].items()}
    return found | {"onnx_over_torch": over}


if __name__ == "__main__":
    main()
