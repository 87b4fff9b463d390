"""Post-processing of one image, beside transformers' with pycocotools.

From the logits of a Swin-T at 512 short edge, which keeps about 13 of its 100 queries, to the rows
of a table: panoptic segments with label, score, area, box and RLE. Prints one JSON line.

    python tests/benchmarks/postprocess.py [--shared ../shared] [--images 8] [--repeats 20]
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
from pycocotools import mask as coco
from transformers import MaskFormerForInstanceSegmentation
from transformers.models.maskformer.image_processing_pil_maskformer import (
    MaskFormerImageProcessorPil,
)

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from swin_t import make_swin_t

from maskformer.cpu.segment_shapes import encode_segments
from maskformer.postprocessing.panoptic import keep_panoptic, panoptic_segmentation

THRESHOLD, OVERLAP = 0.5, 0.5
Row = tuple[int, int, float, int, tuple[int, ...], str]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    outputs = swin_t_outputs(arguments.shared, num_images=arguments.images)
    print(json.dumps(compare(outputs, repeats=arguments.repeats)))


def compare(outputs: list[tuple[Any, tuple[int, int]]], *, repeats: int) -> dict[str, Any]:
    """Milliseconds per image of both, in float32 and bfloat16, and how far they agree."""
    processor = MaskFormerImageProcessorPil()
    result: dict[str, Any] = {"benchmark": "postprocess", "images": len(outputs)}
    result["threads"] = torch.get_num_threads()
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        images = [(_cast(output, dtype), size) for output, size in outputs]
        theirs, ours = _interleaved(
            lambda images=images: [reference_rows(processor, *image) for image in images],
            lambda images=images: [our_rows(*image) for image in images],
            repeats=repeats,
        )
        result[f"{name}_transformers_ms"] = round(theirs / len(images), 2)
        result[f"{name}_ours_ms"] = round(ours / len(images), 2)
        result[f"{name}_times_faster"] = round(theirs / ours, 1)
        result[f"{name}_agreement"] = agreement(processor, images)
    return result


def our_rows(output: Any, size: tuple[int, int]) -> list[Row]:
    """Rows by this package."""
    kept = keep_panoptic(output.class_queries_logits[0], threshold=THRESHOLD)
    # The model makes masks for the kept queries alone; here they are picked from all.
    panoptic = panoptic_segmentation(
        output.masks_queries_logits[0][kept.queries],
        kept,
        size,
        overlap_mask_area_threshold=OVERLAP,
    )
    shapes = encode_segments(panoptic.segmentation.numpy())
    columns = zip(
        panoptic.segments,
        shapes.areas.tolist(),
        shapes.boxes_xywh.tolist(),
        shapes.rles,
        strict=True,
    )
    return [
        (segment.id, segment.label_id, segment.score, area, tuple(box), rle)
        for segment, area, box, rle in columns
    ]


def reference_rows(
    processor: MaskFormerImageProcessorPil, output: Any, size: tuple[int, int]
) -> list[Row]:
    """Rows by transformers and pycocotools."""
    (panoptic,) = processor.post_process_panoptic_segmentation(
        output,
        threshold=THRESHOLD,
        overlap_mask_area_threshold=OVERLAP,
        label_ids_to_fuse=set(),
        target_sizes=[size],
    )
    id_map = panoptic["segmentation"].numpy()
    rows = []
    for segment in panoptic["segments_info"]:
        # COCO's encoder reads bytes, column by column.
        encoded = coco.encode((id_map == segment["id"]).astype("uint8", order="F"))
        box = tuple(int(side) for side in coco.toBbox(encoded))
        rows.append(
            (
                segment["id"],
                segment["label_id"],
                segment["score"],
                int(coco.area(encoded)),
                box,
                encoded["counts"].decode(),
            )
        )
    return rows


def agreement(
    processor: MaskFormerImageProcessorPil, images: list[tuple[Any, tuple[int, int]]]
) -> dict[str, int]:
    """Counts the rows that both have, and those that are equal to the last byte.

    transformers weighs a mask by its score before it asks how large the mask is, so that it keeps
    some segments that lose too much to others. No two queries of this model share a label.
    """
    counts = {"ours": 0, "theirs": 0, "both": 0, "equal": 0}
    for image in images:
        ours = {row[1]: row[3:] for row in our_rows(*image)}
        theirs = {row[1]: row[3:] for row in reference_rows(processor, *image)}
        both = ours.keys() & theirs.keys()
        counts["ours"] += len(ours)
        counts["theirs"] += len(theirs)
        counts["both"] += len(both)
        counts["equal"] += sum(ours[label] == theirs[label] for label in both)
    return counts


def _interleaved(
    one: Callable[[], object], other: Callable[[], object], *, repeats: int
) -> tuple[float, float]:
    """Median milliseconds of both, measured in turns so that noise meets them alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 2):
        for call, measured in zip((one, other), times, strict=True):
            start = time.perf_counter()
            call()
            if repeat >= 2:
                measured.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


@torch.no_grad()
def swin_t_outputs(shared: Path, *, num_images: int) -> list[tuple[Any, tuple[int, int]]]:
    """The outputs of the benchmark's Swin-T for photographs, and their sizes."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_swin_t(Path(folder), shared=shared, num_photographs=num_images)
        model = MaskFormerForInstanceSegmentation.from_pretrained(made.folder).eval()
        processor = MaskFormerImageProcessorPil.from_pretrained(made.folder)
        images = [Image.open(photo).convert("RGB") for photo in made.photographs]
        return [
            (model(**processor(images=[image], return_tensors="pt")), image.size[::-1])
            for image in images
        ]


def _cast(output: Any, dtype: torch.dtype) -> Any:
    return type(output)(
        class_queries_logits=output.class_queries_logits.to(dtype),
        masks_queries_logits=output.masks_queries_logits.to(dtype),
    )


if __name__ == "__main__":
    main()
