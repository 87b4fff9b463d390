"""What `on_gpu.py` measures of a card and of a model on it, and the sizes that it takes."""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("", "tests", "tests/pipeline", "tests/pipeline/labelling")
sys.path[:0] = [str(ROOT / place) for place in PLACES]

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
DTYPE = torch.bfloat16 if HAS_GPU else torch.float32
SHAPE = (512, 704) if HAS_GPU else (64, 96)
BATCHES = (1, 8, 32, 88) if HAS_GPU else (1, 4)
SECONDS = 10.0 if HAS_GPU else 0.5


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


def machine(_: Path) -> dict[str, Any]:
    """Measures what `gpu_prediction.py` assumes of a card, and copies to it."""
    count, side = (2**28, 8192) if HAS_GPU else (2**16, 64)
    host = torch.zeros(count, dtype=torch.uint8)
    there = torch.empty(count, dtype=torch.uint8, device=DEVICE)
    other, factor = torch.empty_like(there), torch.randn(side, side, device=DEVICE, dtype=DTYPE)
    found = {
        "products_a_second": rate(lambda: factor @ factor, images=2 * side**3),
        "bytes_a_second": rate(lambda: other.copy_(there), images=2 * count),
        "bytes_a_second_to_the_gpu": rate(lambda: there.copy_(host), images=count),
    }
    if HAS_GPU:
        pinned = host.pin_memory()
        copy = partial(there.copy_, pinned, non_blocking=True)
        found["bytes_a_second_to_the_gpu_pinned"] = rate(copy, images=count)
    small = factor[:1, :1].clone()
    began = time.perf_counter()
    for _ in range(1_000):
        small.add_(1)
    found["seconds_of_a_launch"] = (time.perf_counter() - began) / 1_000
    return found


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


def compiled(folder: Path) -> dict[str, Any]:
    """Compiles a shape in one actor, and takes its code from there in another one."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in ("first", "second"):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                found[name] = process.submit(_compiled_in_an_actor, folder, place, name).result()
    return found


def _compiled_in_an_actor(folder: Path, place: str, name: str) -> dict[str, float]:
    """Returns the seconds until the shape's first chunk is done, and the rate from then on."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{place}/disk of the {name}"
    from pipeline.labelling.segmenting import compiled_model
    from pipeline.labelling.segmenting.compiled_model import CodeCache, CompiledModel
    from pipeline.storage import Storage

    compiled_model.COMMON_IMAGES = 1
    if not HAS_GPU:
        compiled_model.CHUNK = 2
    model, values = loaded(folder), pixels(compiled_model.CHUNK)
    with torch.inference_mode():
        began = time.perf_counter()
        cache = CodeCache.of(place, storage=Storage(), config=b"{}", precision="bf16")
        forward = CompiledModel(model, cache=cache)
        forward(values)
        return {
            "seconds": round(time.perf_counter() - began, 1),
            "images_per_second": rate(lambda: forward(values), images=len(values)),
        }


def training(folder: Path) -> dict[str, Any]:
    """Times a training step in bfloat16, with the loss in pieces of a GPU and in those of a CPU."""
    from training_step import draw_step_batch

    from maskformer import IdMap, MaskFormerForInstanceSegmentation
    from maskformer.criterion import pieces
    from pipeline.training.batches import Batch
    from pipeline.training.loop import Trainer
    from pipeline.training.optimisation import OptimisationSettings

    count, num_targets = (8, 12) if HAS_GPU else (1, 4)
    model = MaskFormerForInstanceSegmentation.from_pretrained(folder, use_auxiliary_loss=True)
    values, id_maps, _ = draw_step_batch(num_images=count, num_targets=num_targets)
    ids = torch.arange(num_targets, device=DEVICE)
    batch = Batch(
        image_ids=["image"] * count,
        pixel_values=values.contiguous(memory_format=torch.channels_last),
        pixel_mask=torch.ones(count, *values.shape[2:], dtype=torch.bool, device=DEVICE),
        mask_labels=[IdMap(map=id_map.int(), ids=ids) for id_map in id_maps],
        class_labels=[ids % model.config.num_labels] * count,
    )
    settings = OptimisationSettings(precision="bf16", learning_rate=1e-5, non_finite="skip")
    trainer = Trainer(model.to(DEVICE).train(), settings=settings, seed=1)
    found, usual = {}, pieces.values_at_once
    for name, values_at_once in (("now", usual), ("pieces of 2**20", lambda *_, **__: 2**20)):
        pieces.values_at_once = values_at_once
        found[name] = {
            "images_per_second": rate(lambda: trainer.step([batch], step=1), images=count)
        }
        if HAS_GPU:
            found[name]["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found
