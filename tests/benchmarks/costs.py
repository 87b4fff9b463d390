"""What a million images cost beside the model: requests to S3, and seconds of the driver.

Two runs of the job over a real S3 server, behind a proxy that counts, on corpora of two sizes:
what the larger one took more is what images cost, and what is left is what a run costs. A tiny
model sees small images, in blocks and units like those of photographs. Prints one JSON line, with
requests by what they are for, and their price at S3's of standard storage.

    python tests/benchmarks/costs.py [--block_images 256] [--kinds shards files]

`block_images` is by default 16, as on CPUs; beside GPUs it is up to 256.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import s3fs
from memory import SHARD_IMAGES, draw_corpus, save_random_model

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from s3 import KEY, SECRET, S3Server, s3_server
from s3_proxy import s3_proxy

SIZES = (2_000, 6_000)
UNIT_IMAGES = 1_000
DOLLARS_PER_REQUEST = {"PUT": 5e-6, "LIST": 5e-6, "GET": 0.4e-6, "HEAD": 0.4e-6, "DELETE": 0.0}
KINDS = ("shards", "files")
PLACES = ("corpus", "_staging", "segments", "images", "_runs")


def main() -> None:
    """Runs the kinds of corpora and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--block_images", type=int)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    more = [] if arguments.block_images is None else [f"--block_images={arguments.block_images}"]
    found = {}
    with tempfile.TemporaryDirectory() as name, s3_server(Path(name)) as server:
        folder = Path(name)
        save_random_model(folder / "model")
        draw_corpus(folder / "shards", count=max(SIZES))
        bucket = s3fs.S3FileSystem(endpoint_url=server.endpoint_url, key=KEY, secret=SECRET)
        for kind in arguments.kinds:
            runs = [
                measure_run(kind, count, folder, server=server, bucket=bucket, more=more)
                for count in SIZES
            ]
            found[kind] = cost_per_million(*runs)
    settings = {"unit_images": UNIT_IMAGES, "block_images": arguments.block_images}
    print(json.dumps({"benchmark": "costs", **settings, **found}))


def measure_run(
    kind: str,
    count: int,
    folder: Path,
    *,
    server: S3Server,
    bucket: s3fs.S3FileSystem,
    more: list[str],
) -> dict[str, Any]:
    """Measures one run on so many images, in tar shards or one by one."""
    place = f"test/{kind}-{count}"
    for shard in sorted((folder / "shards").iterdir())[: count // SHARD_IMAGES]:
        if kind == "shards":
            bucket.put_file(str(shard), f"{place}/corpus/{shard.name}")
        else:
            unpacked = folder / shard.stem
            if not unpacked.exists():
                subprocess.run(["tar", "-xf", shard, "--one-top-level", "-C", folder], check=True)
            bucket.put(str(unpacked), f"{place}/corpus/{shard.stem}", recursive=True)
    with s3_proxy(server, keeps_heads=True) as proxy:
        environment = {**os.environ, **proxy.environment}
        seconds = driver_seconds(place, model=folder / "model", environment=environment, more=more)
        requests = Counter(_kind(head, place) for head in proxy.seen)
    return {"images": count, "driver_seconds": seconds, "requests": requests}


def driver_seconds(
    place: str, *, model: Path, environment: dict[str, str], more: list[str]
) -> float:
    """CPU seconds of the driver alone."""
    command = [
        sys.executable, str(ROOT / "jobs" / "segment_corpus.py"), f"--corpus=s3://{place}/corpus",
        f"--table=s3://{place}/table", f"--model={model}", "--threshold=0",
        f"--unit_images={UNIT_IMAGES}", f"--unit_bytes={UNIT_IMAGES * _bytes_of_an_image(model)}",
        *more,
    ]  # fmt: skip
    process = psutil.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seconds = 0.0
    while True:
        try:
            output, _ = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            times = process.cpu_times()
            seconds = times.user + times.system
    if process.returncode != 0:
        raise RuntimeError(output.decode())
    return seconds


def _bytes_of_an_image(model: Path) -> int:
    """Returns an image's bytes in a tar of the drawn corpus, from which a unit's size follows."""
    shard = next((model.parent / "shards").iterdir())
    return shard.stat().st_size // SHARD_IMAGES


def cost_per_million(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """Per million images, from what the larger run took more."""
    more = (large["images"] - small["images"]) / 1e6
    requests = Counter(large["requests"])
    requests.subtract(small["requests"])
    by_kind = {kind: round(count / more) for kind, count in sorted(requests.items()) if count > 0}
    return {
        "driver_seconds_per_million": round(
            (large["driver_seconds"] - small["driver_seconds"]) / more
        ),
        "requests_per_million": sum(by_kind.values()),
        "dollars_per_million": round(
            sum(DOLLARS_PER_REQUEST[kind.split()[0]] * count for kind, count in by_kind.items()), 2
        ),
        "by_kind": by_kind,
        "of_a_run": {
            "driver_seconds": round(
                small["driver_seconds"]
                - (large["driver_seconds"] - small["driver_seconds"])
                * small["images"]
                / (large["images"] - small["images"]),
                1,
            ),
            "requests": round(
                small["requests"].total() - requests.total() * small["images"] / (1e6 * more)
            ),
        },
    }


def _kind(head: bytes, place: str) -> str:
    """Names a request as `GET corpus`."""
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    path, _, query = target.partition("?")
    if method == "GET" and "list-type" in query:
        method = "LIST"
        path = query
    if method == "POST":  # many at once: S3 takes nothing for deleting
        method = "DELETE"
    names = path.replace("%2F", "/").split("/")
    return f"{method} {next((name for name in PLACES if name in names), 'other')}"


if __name__ == "__main__":
    main()
