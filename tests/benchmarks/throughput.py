"""Images per second of the job, beside transformers' pipeline and a bare loop of our forward.

The same photographs, weights (a Swin-T at 512 short edge) and cores; one program after the other,
each in a process of its own. Start-up is left out of all of them. Where there is a GPU all of them
use it, and the job gets each photograph many times over: it needs thousands. Prints one JSON line.

    python tests/benchmarks/throughput.py [--shared ../shared] [--images 60] [--copies 1]
                                          [--actor_gpus 0.25]
"""

import argparse
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

THRESHOLD, OVERLAP = 0.5, 0.5


def main() -> None:
    """Measures in turn and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--copies", type=int, default=1, help="of each photograph, for the job")
    parser.add_argument("--actor_gpus", help="of the job")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "MODEL", "PHOTOGRAPHS"))
    arguments = parser.parse_args()
    if arguments.one:
        what, model, photographs = arguments.one
        print(json.dumps(LOOPS[what](model, sorted(Path(photographs).iterdir()))))
        return
    from swin_t import make_swin_t

    with tempfile.TemporaryDirectory() as folder:
        made = make_swin_t(Path(folder), shared=arguments.shared, num_photographs=arguments.images)
        photographs = made.photographs[0].parent
        corpus = _copied(made.photographs, Path(folder, "corpus"), copies=arguments.copies)
        rates = {
            "job_bf16": _job(corpus, made.folder, Path(folder), actor_gpus=arguments.actor_gpus),
            **{what: _loop(what, made.folder, photographs) for what in LOOPS},
        }
    job = rates["job_bf16"]
    print(
        json.dumps(
            {
                "benchmark": "throughput",
                "images": arguments.images,
                "cores": os.cpu_count(),
                "gpu": _gpu(),
                "images_per_second": {what: round(rate, 3) for what, rate in rates.items()},
                "job_over_transformers_fp32": round(job / rates["transformers_fp32"], 2),
                "job_over_transformers_bf16": round(job / rates["transformers_bf16"], 2),
                "job_over_bare_forward": round(job / rates["bare_forward_bf16"], 2),
                "job_over_bare_query_first": round(job / rates["bare_query_first_bf16"], 2),
            }
        )
    )


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _copied(photographs: Iterable[Path], folder: Path, *, copies: int) -> Path:
    folder.mkdir()
    for path in photographs:
        for number in range(copies):
            (folder / f"{path.stem}-{number}{path.suffix}").hardlink_to(path)
    return folder


def _job(corpus: Path, model: Path, folder: Path, *, actor_gpus: str | None) -> float:
    table = Path(tempfile.mkdtemp(dir=folder))
    command = [
        sys.executable, str(ROOT / "jobs" / "segment_corpus.py"),
        f"--corpus={corpus}", f"--table={table}", f"--model={model}",
        "--precision=bf16", f"--threshold={THRESHOLD}",
        f"--overlap_mask_area_threshold={OVERLAP}",
    ]  # fmt: skip
    if actor_gpus is not None:
        command.append(f"--actor_gpus={actor_gpus}")
    if _gpu() is None:
        command.append("--block_images=4")  # few photographs are to be shared among all actors
    subprocess.run(command, check=True, capture_output=True)
    (report,) = table.glob("_runs/*/report.json")
    return float(json.loads(report.read_text())["images_per_second"])


def _loop(what: str, model: Path, photographs: Path) -> float:
    command = [sys.executable, __file__, "--one", what, str(model), str(photographs)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{what}: {ran.stderr[-3000:]}")
    return float(ran.stdout.splitlines()[-1])


def _transformers(model: str, photographs: list[Path], *, dtype: str) -> float:
    import torch
    from transformers import pipeline

    device = 0 if torch.cuda.is_available() else -1
    segment = pipeline(
        "image-segmentation", model=model, dtype=getattr(torch, dtype), device=device
    )

    def one(path: Path) -> None:
        segment(str(path), threshold=THRESHOLD, overlap_mask_area_threshold=OVERLAP)

    return _rate(one, photographs)


def _bare(model_folder: str, photographs: list[Path], *, query_first: bool) -> float:
    """Our forward on inputs made in advance, all masks or those of the kept queries, in bf16.

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
    model = MaskFormerForInstanceSegmentation.from_pretrained(
        model_folder, dtype=torch.bfloat16
    ).to(device)
    processor = MaskFormerImageProcessor.from_pretrained(model_folder)
    inputs = [
        processor(Image.open(path), return_tensors="pt")["pixel_values"].to(device, torch.bfloat16)
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


LOOPS: dict[str, Callable[[str, list[Path]], float]] = {
    "transformers_bf16": lambda m, p: _transformers(m, p, dtype="bfloat16"),
    "bare_forward_bf16": lambda m, p: _bare(m, p, query_first=False),
    "bare_query_first_bf16": lambda m, p: _bare(m, p, query_first=True),
    "transformers_fp32": lambda m, p: _transformers(m, p, dtype="float32"),
}


if __name__ == "__main__":
    main()
