"""Peak memory and images per second of the job on 1,000, 2,000 and 10,000 small images.

A tiny model with random weights, so that moving images is what costs. Memory is what a process has
for itself (USS), the largest seen while it ran; of actors and of readers the largest process.
Prints one JSON line.

    python tests/benchmarks/memory.py
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SIZES = (1_000, 2_000, 10_000)
SHARD_IMAGES = 500


def main() -> None:
    """Runs the job on each corpus and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_random_model(folder / "model")
        draw_corpus(folder / "all", count=max(SIZES))
        runs = {}
        for count in SIZES:
            corpus = folder / f"corpus-{count}"
            corpus.mkdir()
            for shard in sorted((folder / "all").iterdir())[: count // SHARD_IMAGES]:
                (corpus / shard.name).hardlink_to(shard)
            runs[count] = run(corpus, model=folder / "model", table=folder / f"table-{count}")
    small, middle, large = (runs[count] for count in SIZES)
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "runs": runs,
                "memory_10000_over_1000": {
                    kind: round(large["peak_mb"][kind] / small["peak_mb"][kind], 3)
                    for kind in ("driver", "actor", "reader")
                },
                "images_per_second_10000_over_2000": round(
                    large["images_per_second"] / middle["images_per_second"], 3
                ),
            }
        )
    )


def save_random_model(folder: Path) -> None:
    """A small Swin model whose segments mean nothing, the same each time."""
    import torch

    from maskformer import (
        MaskFormerConfig,
        MaskFormerDetrConfig,
        MaskFormerForInstanceSegmentation,
        MaskFormerImageProcessor,
        MaskFormerSwinConfig,
    )

    torch.manual_seed(0)
    config = MaskFormerConfig(
        backbone_config=MaskFormerSwinConfig(
            embed_dim=24,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 4, 8],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        decoder_config=MaskFormerDetrConfig(
            d_model=64, decoder_layers=2, decoder_ffn_dim=128, num_queries=12
        ),
        fpn_feature_size=64,
        mask_feature_size=64,
        num_labels=6,
    )
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    MaskFormerImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)


def draw_corpus(folder: Path, *, count: int) -> None:
    """Small noisy JPEGs in tar shards."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for first in range(0, count, SHARD_IMAGES):
        with tarfile.open(folder / f"{first:06}.tar", "w") as archive:
            for index in range(first, first + SHARD_IMAGES):
                coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
                buffer = io.BytesIO()
                coarse.resize((64, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"{index:06}.jpg")
                member.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(member, buffer)


def run(corpus: Path, *, model: Path, table: Path) -> dict[str, Any]:
    """Runs the job once and watches it from outside."""
    command = [
        sys.executable, str(ROOT / "jobs" / "segment_corpus.py"),
        f"--corpus={corpus}", f"--table={table}", f"--model={model}",
        "--threshold=0", "--unit_images=500", "--unit_bytes=1000000", "--local=false",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    watcher = Watcher(process.pid)
    output, _ = process.communicate()
    peaks = watcher.stop()
    if process.returncode != 0:
        raise RuntimeError(output.decode())
    (report,) = table.glob("_runs/*/report.json")
    rate = json.loads(report.read_text())["images_per_second"]
    return {"images_per_second": round(rate, 1), "peak_mb": peaks}


class Watcher:
    """The largest private memory of a job's driver, actors and readers, in megabytes."""

    def __init__(self, pid: int) -> None:
        self._driver = psutil.Process(pid)
        self._peaks: dict[str, float] = defaultdict(float)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._over.set()
        self._thread.join()
        return {kind: round(peak) for kind, peak in self._peaks.items()}

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                processes = [self._driver, *self._driver.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    kind = self._kind(process)
                    if kind:
                        used = process.memory_full_info().uss / 1e6
                        self._peaks[kind] = max(self._peaks[kind], used)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            time.sleep(0.3)

    def _kind(self, process: psutil.Process) -> str | None:
        if process == self._driver:
            return "driver"
        title = " ".join(process.cmdline())
        if "SegmenterActor" in title:
            return "actor"
        return "reader" if title.startswith("ray::") else None


if __name__ == "__main__":
    main()
