"""Measures one GPU: the forward in each way, the actor on equal and mixed shapes, transformers.

For the machine of `gpu_prediction.py`, in about eight minutes: run it and tests/gpu before anything
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
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("", "tests", "tests/pipeline", "tests/pipeline/labelling")
sys.path[:0] = [str(ROOT / place) for place in PLACES]

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
SHAPE = (512, 704) if HAS_GPU else (64, 96)
SHRINK = 1 if HAS_GPU else 8
BATCHES = (1, 8, 32, 88) if HAS_GPU else (1, 4)
UNIT = 1000 if HAS_GPU else 24
SECONDS = 10.0 if HAS_GPU else 0.5
LIMIT_SECONDS = {"forward": 150, "compiled": 200, "actor": 120, "swin_l": 120, "transformers": 60}


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


def rate(call: Callable[[], Any], *, images: int) -> float:
    """Returns images a second of a call that is repeated, once warm."""
    for _ in range(3):
        call()
    if HAS_GPU:
        torch.cuda.synchronize()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS / 4:
        call()
        if HAS_GPU:
            torch.cuda.synchronize()
        count += images
    return round(count / (time.perf_counter() - began), 1)


def loaded(folder: Path) -> Any:
    from maskformer import MaskFormerForInstanceSegmentation

    model = MaskFormerForInstanceSegmentation.from_pretrained(folder, dtype=DTYPE)
    return model.eval().to(DEVICE)


def pixels(batch: int) -> torch.Tensor:
    values = torch.randn(batch, 3, *SHAPE, device=DEVICE, dtype=DTYPE)
    return values.to(memory_format=torch.channels_last)


def forwards(model: Any) -> dict[str, Any]:
    """Compares the two ways of attention in windows, by batch, and the memory that one takes."""
    from maskformer.network import window_attention
    from pipeline.labelling.segmenting.compiled_model import logits_of

    found: dict[str, Any] = {}
    with torch.inference_mode():
        values = pixels(2)
        outputs = []
        for name, saves in (("as_on_cpus", False), ("saving_bytes", True)):
            window_attention.saves_bytes = lambda tokens, saves=saves: saves
            if saves:
                model.keep_position_biases()
            outputs.append(logits_of(model, values)[1].float())
            found[name] = {
                batch: rate(partial(logits_of, model, pixels(batch)), images=batch)
                for batch in BATCHES
            }
        difference = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
        found["relative_difference"] = float(difference)
        if HAS_GPU:
            images = pixels(BATCHES[-1])
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            logits_of(model, images)
            peak = torch.cuda.max_memory_allocated() - before
            found["peak_bytes_of_a_pixel"] = round(peak / (BATCHES[-1] * SHAPE[0] * SHAPE[1]))
    return found


def compiled(folder: Path) -> dict[str, Any]:
    """Compiles a shape, then takes its code from the cache in what would be the next actor."""
    from pipeline.labelling.segmenting import compiled_model
    from pipeline.labelling.segmenting.compiled_model import CodeCache, CompiledModel
    from pipeline.storage import Storage

    compiled_model.COMMON_IMAGES = 1
    if not HAS_GPU:
        compiled_model.CHUNK = 2
    model, values = loaded(folder), pixels(compiled_model.CHUNK)
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        cache = CodeCache.of(place, storage=Storage(), config=b"{}", precision="bf16")
        found: dict[str, Any] = {}
        for name in ("seconds_to_compile", "seconds_with_code"):
            torch.compiler.reset()
            began = time.perf_counter()
            forward = CompiledModel(model, cache=cache)
            forward(values)
            found[name] = round(time.perf_counter() - began, 1)
        found["images_per_second"] = rate(lambda: forward(values), images=len(values))
    return found


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
            coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
            data = io.BytesIO()
            coarse.resize((width, height)).save(data, "JPEG", quality=90)
            Path(place, f"{number:05}.jpg").write_bytes(data.getvalue())
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
    return found


def swin_l(_: Path) -> dict[str, Any]:
    """Compares the ways of attention in a Swin-L of random weights."""
    if not HAS_GPU:
        return {"skipped": "it is too large for a rehearsal"}
    from maskformer import MaskFormerConfig, MaskFormerForInstanceSegmentation
    from maskformer.zoo import MODELS

    config = MaskFormerConfig.from_dict(MODELS["maskformer-swin-large-coco-panoptic"].config)
    with DEVICE:
        model = MaskFormerForInstanceSegmentation(config)
    return forwards(model.to(DTYPE).eval())


def transformers(folder: Path) -> dict[str, Any]:
    """Labels photographs by transformers' pipeline on the same card."""
    from transformers import pipeline

    segment = pipeline("image-segmentation", model=str(folder), dtype=DTYPE, device=DEVICE)
    height, width = 480 // SHRINK, 640 // SHRINK
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = Image.fromarray(coarse).resize((width, height))
    return {"images_per_second": rate(lambda: segment(image, threshold=0.5), images=1)}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "forward": lambda folder: forwards(loaded(folder)),
    "actor": actor,
    "swin_l": swin_l,
    "transformers": transformers,
    "compiled": compiled,
}


if __name__ == "__main__":
    main()
