"""Images per second of the job, beside transformers' pipeline and a bare loop of our forward.

The same photographs, weights (a Swin-T at 512 short edge) and cores; one program after the other,
each in a process of its own. Start-up is left out of all of them. Where there is a GPU all of them
use it, and the job gets each photograph many times over: it needs thousands. In bf16, or in fp32 on
CPUs that only emulate that. Prints one JSON line.

    python tests/benchmarks/throughput.py [--shared ../shared] [--images 24] [--copies 1]
                                          [--precision bf16] [--actor_gpus 0.25]
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from machine import usual_precision

THRESHOLD, OVERLAP = 0.5, 0.5
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def main() -> None:
    """Measures in turn and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--copies", type=int, default=1, help="of each photograph, for the job")
    parser.add_argument("--precision", choices=DTYPES, default=usual_precision())
    parser.add_argument("--actor_gpus", help="of the job")
    parser.add_argument("--one", nargs=4, metavar=("WHAT", "MODEL", "PRECISION", "PHOTOGRAPHS"))
    arguments = parser.parse_args()
    if arguments.one:
        what, model, precision, photographs = arguments.one
        print(json.dumps(LOOPS[what](model, sorted(Path(photographs).iterdir()), precision)))
        return
    from swin_t import make_swin_t

    with tempfile.TemporaryDirectory() as folder:
        made = make_swin_t(Path(folder), shared=arguments.shared, num_photographs=arguments.images)
        photographs = made.photographs[0].parent
        corpus = _copied(made.photographs, Path(folder, "corpus"), copies=arguments.copies)
        job = _job(corpus, made.folder, Path(folder), arguments)
        loops = {
            f"{what}_{precision}": _loop(what, made.folder, photographs, precision)
            for what, precision in _loops(arguments.precision)
        }
    rates = {f"job_{arguments.precision}": job, **loops}
    print(
        json.dumps(
            {
                "benchmark": "throughput",
                "images": arguments.images,
                "cores": os.cpu_count(),
                "gpu": _gpu(),
                "images_per_second": {what: round(rate, 3) for what, rate in rates.items()},
                **{f"job_over_{what}": round(job / rate, 2) for what, rate in loops.items()},
            }
        )
    )


def _loops(precision: str) -> list[tuple[str, str]]:
    """Returns what the job is measured beside: all in its precision, and transformers in fp32."""
    found = [(what, precision) for what in LOOPS]
    return found if precision == "fp32" else [*found, ("transformers", "fp32")]


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _copied(photographs: Iterable[Path], folder: Path, *, copies: int) -> Path:
    folder.mkdir()
    for path in photographs:
        for number in range(copies):
            (folder / f"{path.stem}-{number}{path.suffix}").hardlink_to(path)
    return folder


def _job(corpus: Path, model: Path, folder: Path, arguments: argparse.Namespace) -> float:
    table = Path(tempfile.mkdtemp(dir=folder))
    command = [
        sys.executable, str(ROOT / "jobs" / "segment_corpus.py"),
        f"--corpus={corpus}", f"--table={table}", f"--model={model}",
        f"--precision={arguments.precision}", f"--threshold={THRESHOLD}",
        f"--overlap_mask_area_threshold={OVERLAP}",
    ]  # fmt: skip
    if arguments.actor_gpus is not None:
        command.append(f"--actor_gpus={arguments.actor_gpus}")
    if _gpu() is None:
        command.append("--block_images=4")  # few photographs are to be shared among all actors
    subprocess.run(command, check=True, capture_output=True)
    (report,) = table.glob("_runs/*/report.json")
    return float(json.loads(report.read_text())["images_per_second"])


def _loop(what: str, model: Path, photographs: Path, precision: str) -> float:
    command = [sys.executable, __file__, "--one", what, str(model), precision, str(photographs)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{what}: {ran.stderr[-3000:]}")
    return float(ran.stdout.splitlines()[-1])


def _transformers(model: str, photographs: list[Path], precision: str) -> float:
    import torch
    from transformers import pipeline

    device = 0 if torch.cuda.is_available() else -1
    segment = pipeline(
        "image-segmentation", model=model, dtype=getattr(torch, DTYPES[precision]), device=device
    )

    def one(path: Path) -> None:
        segment(str(path), threshold=THRESHOLD, overlap_mask_area_threshold=OVERLAP)

    return _rate(one, photographs)


def _bare(
    model_folder: str, photographs: list[Path], precision: str, *, query_first: bool
) -> float:
    """Our forward on inputs made in advance, all masks or those of the kept queries.

    As the job does it: image by image on a CPU, in batches on a GPU.
    """
    import torch
    from PIL import Image

    from maskformer import (
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessor,
        keep_panoptic,
    )

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = getattr(torch, DTYPES[precision])
    model = MaskFormerForInstanceSegmentation.from_pretrained(model_folder, dtype=dtype).to(device)
    processor = MaskFormerImageProcessor.from_pretrained(model_folder)
    inputs = [
        processor(Image.open(path), return_tensors="pt")["pixel_values"].to(device, dtype)
        for path in photographs
    ]
    size = 16 if on_gpu else 1
    batches = [torch.cat(inputs[start : start + size]) for start in range(0, len(inputs), size)]

    def one(pixel_values: Any) -> None:
        if not query_first:
            model(pixel_values)
            return
        decoding = model.decode_queries(pixel_values)
        for index, logits in enumerate(decoding.class_queries_logits.cpu()):
            kept = keep_panoptic(logits, threshold=THRESHOLD)
            model.query_masks(decoding, index=index, kept=kept.queries.to(device))

    with torch.inference_mode():
        return _rate(one, batches) * len(inputs) / len(batches)


def _rate(one: Callable[[Any], None], items: Iterable[Any]) -> float:
    import torch

    items = list(items)
    for item in items[:2]:
        one(item)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    for item in items:
        one(item)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return len(items) / (time.perf_counter() - began)


LOOPS: dict[str, Callable[[str, list[Path], str], float]] = {
    "transformers": _transformers,
    "bare_forward": functools.partial(_bare, query_first=False),
    "bare_query_first": functools.partial(_bare, query_first=True),
}


if __name__ == "__main__":
    main()
