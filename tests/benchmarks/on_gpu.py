"""Measures one GPU: what the card can do, each part of the actor, transformers, a training step.

For the machine of `gpu_prediction.py`, in about ten minutes: run it and tests/gpu before anything
is tuned. Each part has a process of its own with a time limit; one that fails is a line of the
result. Where there is no GPU, --rehearse runs all parts with a tiny model. Needs no network and no
weights. Prints one JSON line.

    python tests/benchmarks/on_gpu.py [--shared ../shared] [--parts forward actor] [--rehearse]
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from gpu_parts import (
    DEVICE,
    DTYPE,
    HAS_GPU,
    ROOT,
    SECONDS,
    SHAPE,
    compiled,
    forwards,
    loaded,
    machine,
    rate,
    swin_l,
    training,
)
from PIL import Image

SHRINK = 1 if HAS_GPU else 8
UNIT = 1000 if HAS_GPU else 24
LIMIT_SECONDS = {
    "machine": 40, "actor": 120, "postprocess": 60, "readers": 60, "forward": 150,
    "transformers": 60, "training": 90, "swin_l": 120, "compiled": 200,
}  # fmt: skip


def main() -> None:
    """Runs the parts in turn and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    parser.add_argument("--one", nargs=2, metavar=("PART", "MODEL"))
    arguments = parser.parse_args()
    if arguments.one:
        part, folder = arguments.one
        print(json.dumps(PARTS[part](Path(folder))))
        return
    if not HAS_GPU and not arguments.rehearse:
        print("skipped: there is no GPU here")
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = made_model(Path(folder), shared=arguments.shared)
        for part in arguments.parts:
            found[part] = measured(part, model)
            print(part, json.dumps(found[part]), file=sys.stderr, flush=True)
    gpu = torch.cuda.get_device_name() if HAS_GPU else None
    print(json.dumps({"benchmark": "on_gpu", "gpu": gpu, "torch": torch.__version__, **found}))


def measured(part: str, model: Path) -> Any:
    """Returns what a part finds, or why it found nothing."""
    command = [sys.executable, __file__, "--one", part, str(model)]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS[part]
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it took longer than {LIMIT_SECONDS[part]} s"}
    if ran.returncode:
        return {"error": ran.stderr[-800:]}
    return json.loads(ran.stdout.splitlines()[-1])


def made_model(folder: Path, *, shared: Path) -> Path:
    """Writes a Swin-T that keeps a dozen queries, or for a rehearsal a tiny model."""
    if HAS_GPU:
        from swin_t import make_swin_t

        return make_swin_t(folder, shared=shared, num_photographs=16).folder
    from small_model import small_model

    from maskformer import MaskFormerImageProcessor

    model = folder / "tiny"
    small_model().save_pretrained(model)
    size = {"shortest_edge": SHAPE[0], "longest_edge": 4 * SHAPE[0]}
    MaskFormerImageProcessor(size=size).save_pretrained(model)
    return model


def photograph(random: np.random.Generator, *, height: int, width: int) -> bytes:
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
    data = io.BytesIO()
    coarse.resize((width, height)).save(data, "JPEG", quality=90)
    return data.getvalue()


def blocks(folder: Path, sizes: list[tuple[int, int]]) -> list[pa.Table]:
    """Returns a unit of photographs of these sizes as readers send it beside GPUs."""
    from maskformer import MaskFormerImageProcessor
    from pipeline.corpora.corpus import list_corpus
    from pipeline.corpora.reading import ReadSettings
    from pipeline.labelling.reading.unit_loader import UnitLoader
    from pipeline.planning.planner import PLAN
    from pipeline.storage import Storage

    with tempfile.TemporaryDirectory() as place:
        random = np.random.default_rng(0)
        for number, (height, width) in enumerate(sizes):
            data = photograph(random, height=height, width=width)
            Path(place, f"{number:05}.jpg").write_bytes(data)
        storage, reading = Storage(), ReadSettings()
        sources = list_corpus(place, storage=storage, settings=reading).sources
        rows = [{"unit_index": 0, "unit_id": "u", **vars(each)} for each in sources]
        load = UnitLoader(
            storage=storage,
            reading=reading,
            processor=MaskFormerImageProcessor.from_pretrained(folder),
            block_bytes=256 * 3 * SHAPE[0] * SHAPE[1],
            for_gpus=True,
        )
        return list(load(pa.Table.from_pylist(rows, schema=PLAN)))


def actor(folder: Path) -> dict[str, Any]:
    """Labels units of equal and of mixed shapes by one actor with two callers."""
    from coco_sizes import coco_sizes

    from pipeline.labelling.segmenting.segmenter import Segmenter
    from pipeline.labelling.settings import SegmentSettings

    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    precision: Any = "bf16" if HAS_GPU else "fp32"
    segmenter = Segmenter(files, settings=SegmentSettings(precision=precision), way="by_batch")
    found = {}
    for name, sizes in (("equal", [(480, 640)] * UNIT), ("mixed", coco_sizes(UNIT))):
        unit = blocks(folder, [(height // SHRINK, width // SHRINK) for height, width in sizes])
        images = [sum(each is not None for each in b["pixels"].to_pylist()) for b in unit]
        with ThreadPoolExecutor(2) as callers:
            list(callers.map(segmenter, unit))  # plans, kernels and buffers are made
            began, count = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS:
                list(callers.map(segmenter, unit))
                count += sum(images)
            found[name] = round(count / (time.perf_counter() - began), 1)
            if HAS_GPU:
                label = partial(callers.map, segmenter, unit)
                found[f"{name}, GPU busy"] = busy_share(lambda label=label: list(label()))
    return found


def busy_share(call: Callable[[], Any]) -> float:
    """Returns the share of a call's time in which the GPU runs a kernel or copies."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    busy = until = 0.0
    ranges = [
        each.time_range for each in profiled.events() or () if each.device_type.name == "CUDA"
    ]
    for begin, end in sorted((each.start, each.end) for each in ranges):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return round(busy / 1e6 / seconds, 3)


def postprocess(_: Path) -> dict[str, Any]:
    """Compares post-processing by image and by batch, from logits to encoded segments."""
    return {task: _postprocess(task) for task in ("panoptic", "instance")}


def _postprocess(task: str) -> dict[str, Any]:
    from maskformer import (
        BatchPostprocessor,
        EncodedSegments,
        encode_segmentation,
        instance_segmentation,
        keep_instance,
        keep_panoptic,
        panoptic_segmentation,
    )

    count, target = (64, (480, 640)) if HAS_GPU else (2, (60, 80))
    classes = 5 * torch.randn(count, 100, 134, device=DEVICE)
    classes[..., -1] = 99
    classes[:, :13, -1] = -99  # so many queries are kept
    coarse = 8 * torch.randn(count, 100, 6, 8, device=DEVICE)
    masks = torch.nn.functional.interpolate(coarse, (SHAPE[0] // 4, SHAPE[1] // 4), mode="bilinear")

    def by_image() -> EncodedSegments:
        parts = []
        for logits, of_image in zip(classes.cpu(), masks, strict=True):
            if task == "instance":
                kept = keep_instance(logits, threshold=0.1)
                queries = kept.queries.to(DEVICE)
                found = instance_segmentation(of_image[queries], kept, target, threshold=0.1)
            else:
                kept = keep_panoptic(logits, threshold=0.1)
                found = panoptic_segmentation(of_image[kept.queries.to(DEVICE)], kept, target)
            parts.append(encode_segmentation(found))
        return EncodedSegments.joined(parts)

    def by_batch(processor: Any) -> EncodedSegments:
        return processor.start(classes, masks, target_sizes=[target] * count).result()

    ways = {"by image": by_image}
    for name, uses in (("by plain operations", False), *([("by kernels", True)] * HAS_GPU)):
        ways[name] = partial(by_batch, BatchPostprocessor(task, threshold=0.1, uses_kernels=uses))
    with torch.inference_mode():
        expected = by_image()
        return {
            name: {
                "images_per_second": rate(way, images=count),
                "is_equal": way().rle_text.tobytes() == expected.rle_text.tobytes(),
            }
            for name, way in ways.items()
        }


def readers(folder: Path) -> dict[str, Any]:
    """Measures a reader on one core, beside a CPU and beside a GPU, and the GPU's decoder."""
    from maskformer import MaskFormerImageProcessor
    from pipeline.corpora.reading import EncodedImage, ReadSettings
    from pipeline.labelling.reading.unit_loader import BLOCK, image_row
    from pipeline.labelling.segmenting.device_jpegs import decode_block
    from pipeline.labelling.segmenting.model_inputs import images_of

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    images = [
        EncodedImage(
            image_id=str(number), uri="u", member=None, etag="e",
            data=photograph(random, height=480 // SHRINK, width=640 // SHRINK),
        )
        for number in range(64 if HAS_GPU else 4)
    ]  # fmt: skip
    processor = MaskFormerImageProcessor.from_pretrained(folder)

    def block(decode: Any, *, is_resized: bool) -> pa.Table:
        reading, rows = ReadSettings(decode=decode), []
        for number, image in enumerate(images):
            row = image_row(image, reading=reading, processor=processor, is_resized=is_resized)
            rows.append({"unit_id": "u", "kind": "image", "position": number, **row})
        return pa.Table.from_pylist(rows, schema=BLOCK)

    found: dict[str, Any] = {
        "resized": rate(partial(block, "exact", is_resized=True), images=len(images)),
        "left to the GPU": rate(partial(block, "exact", is_resized=False), images=len(images)),
        "as JPEGs": rate(partial(block, "gpu", is_resized=False), images=len(images)),
    }
    encoded, pillows = block("gpu", is_resized=False), block("exact", is_resized=False)
    decode = partial(decode_block, encoded, device=DEVICE)
    found["decoded on the device"] = rate(decode, images=len(images))
    pairs = zip(decode().images, images_of(pillows), strict=True)
    differences = [
        np.abs(torch.as_tensor(ours.pixels).cpu().numpy().astype(int) - theirs.pixels).mean()
        for ours, theirs in pairs
    ]
    found["mean difference from Pillow"] = round(float(np.mean(differences)), 3)
    return found


def transformers(folder: Path) -> dict[str, Any]:
    """Labels photographs by transformers' pipeline on the same card."""
    from transformers import pipeline

    segment = pipeline("image-segmentation", model=str(folder), dtype=DTYPE, device=DEVICE)
    height, width = 480 // SHRINK, 640 // SHRINK
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height))
    return {"images_per_second": rate(lambda: segment(image, threshold=0.5), images=1)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "machine": machine,
    "actor": actor,
    "postprocess": postprocess,
    "readers": readers,
    "forward": lambda folder: forwards(loaded(folder)),
    "transformers": transformers,
    "training": training,
    "swin_l": swin_l,
    "compiled": compiled,
}


if __name__ == "__main__":
    main()
