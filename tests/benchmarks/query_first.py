"""What query-first decoding saves: the mask layer alone, the forward, and all the way to the rows.

A Swin-T at 512 short edge that keeps about 13 of 100 queries, in bf16 where that is not emulated.
Both ways are the same code up to the masks; they take turns, image by image. Prints one JSON line.

    python tests/benchmarks/query_first.py [--shared ../shared] [--images 8] [--repeats 3]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from machine import usual_precision
from swin_t import make_swin_t

from maskformer import (
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    encode_segments,
    keep_panoptic,
    panoptic_segmentation,
)

THRESHOLD, OVERLAP = 0.5, 0.5
PRECISION = usual_precision()
DTYPE = torch.bfloat16 if PRECISION == "bf16" else torch.float32


@torch.inference_mode()
def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = make_swin_t(Path(folder), shared=arguments.shared, num_photographs=arguments.images)
        model = MaskFormerForInstanceSegmentation.from_pretrained(made.folder, dtype=DTYPE)
        processor = MaskFormerImageProcessor.from_pretrained(made.folder)
        images = [Image.open(path).convert("RGB") for path in made.photographs]
    pixels = [torch.from_numpy(processor.resize(image))[None] for image in images]
    inputs = [processor.normalize(each, dtype=DTYPE) for each in pixels]
    kept_counts, worst = [], 0.0
    seconds: dict[str, list[float]] = {
        name: []
        for name in ("all_layer", "first_layer", "all", "first", "all_to_rows", "first_to_rows")
    }
    for _ in range(arguments.repeats):
        for image, pixel_values in zip(images, inputs, strict=True):
            size = (image.height, image.width)
            decoding = model.decode_queries(pixel_values)
            kept = keep_panoptic(decoding.class_queries_logits[0], threshold=THRESHOLD)
            kept_counts.append(len(kept.queries))
            every = torch.arange(decoding.class_queries_logits.shape[1])
            projection = model.model.pixel_level_module.decoder.mask_projection

            def all_layer(decoding: Any = decoding, projection: Any = projection) -> Any:
                features = projection(decoding.pixel_features)
                return torch.einsum("bqc,bchw->bqhw", decoding.mask_embeddings, features)[0]

            def first_layer(decoding: Any = decoding, kept: Any = kept) -> Any:
                return model.query_masks(decoding, index=0, kept=kept.queries)

            def forward(masks: Callable[..., Any], pixel_values: Any = pixel_values) -> Any:
                again = model.decode_queries(pixel_values)
                kept = keep_panoptic(again.class_queries_logits[0], threshold=THRESHOLD)
                return masks(decoding=again), kept

            def all_to_rows(
                forward: Any = forward, layer: Any = all_layer, size: Any = size
            ) -> None:
                masks, kept = forward(layer)
                _rows(masks[kept.queries], kept, size)

            def first_to_rows(
                forward: Any = forward, layer: Any = first_layer, size: Any = size
            ) -> None:
                _rows(*forward(layer), size)

            _time(seconds["all_layer"], all_layer)
            _time(seconds["first_layer"], first_layer)
            _time(seconds["all"], lambda f=forward, m=all_layer: f(m))
            _time(seconds["first"], lambda f=forward, m=first_layer: f(m))
            _time(seconds["all_to_rows"], all_to_rows)
            _time(seconds["first_to_rows"], first_to_rows)
            exact = _in_float32(model, decoding, every)
            folded = all_layer().float()[kept.queries] - first_layer().float()
            worst = max(worst, float(folded.abs().max() / exact.abs().max()))
    middle = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    print(
        json.dumps(
            {
                "benchmark": "query_first",
                "precision": PRECISION,
                "kept_of_100": round(statistics.mean(kept_counts), 1),
                "mask_layer_ms": [round(middle["all_layer"], 1), round(middle["first_layer"], 1)],
                "forward_ms": [round(middle["all"]), round(middle["first"])],
                "to_rows_ms": [round(middle["all_to_rows"]), round(middle["first_to_rows"])],
                "to_rows_times_faster": round(middle["all_to_rows"] / middle["first_to_rows"], 2),
                "largest_difference": round(worst, 5),
            }
        )
    )


def _rows(mask_logits: torch.Tensor, kept: Any, size: tuple[int, int]) -> None:
    panoptic = panoptic_segmentation(mask_logits, kept, size, overlap_mask_area_threshold=OVERLAP)
    encode_segments(panoptic.segmentation.numpy())


def _in_float32(model: Any, decoding: Any, queries: torch.Tensor) -> torch.Tensor:
    projection = model.model.pixel_level_module.decoder.mask_projection
    features = torch.nn.functional.conv2d(
        decoding.pixel_features.float(),
        projection.weight.float(),
        projection.bias.float(),
        padding=projection.padding,
    )
    embeddings = decoding.mask_embeddings.float()[:, queries]
    return torch.einsum("bqc,bchw->bqhw", embeddings, features)[0]


def _time(into: list[float], action: Callable[[], Any]) -> None:
    began = time.perf_counter()
    action()
    into.append(time.perf_counter() - began)


if __name__ == "__main__":
    main()
