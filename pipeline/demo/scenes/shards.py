"""Writes scenes as tar shards, which `pipeline/datasets/shards.py` reads.

Each scene is `KEY.jpg`, `KEY.png` with segment ids in grey, and `KEY.json` with the segments'
labels; `labels.json` lies beside the tars.
"""

import io
import json
import multiprocessing
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from pipeline.demo.scenes.scene import LABELS, THINGS, Scene, draw_scene
from pipeline.storage import Storage, join

SIZES = ((256, 320), (256, 320), (256, 320), (240, 320), (320, 256), (288, 288), (192, 320))
"""(height, width) of scenes; each scene draws one at random."""


def write_shards(
    folder: str,
    *,
    num_images: int,
    seed: int,
    shard_images: int = 250,
    sizes: Sequence[tuple[int, int]] = SIZES,
    num_processes: int = 1,
    storage: Storage | None = None,
) -> None:
    """Writes scenes below a folder or prefix; the same bytes for any `num_processes`.

    Raises:
        ValueError: a number is below 1, or there are files already.
        StorageFault: the storage failed.
    """
    storage = storage or Storage().with_environment()
    numbers = {
        "num_images": num_images, "shard_images": shard_images, "num_processes": num_processes
    }  # fmt: skip
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if next(iter(storage.files(folder)), None) is not None:
        raise ValueError(
            f"scenes go to an empty place, and there are files at {folder}; name another"
        )
    names = {"labels": list(LABELS), "things": list(THINGS)}
    storage.write(join(folder, "labels.json"), json.dumps(names).encode())
    starts = range(0, num_images, shard_images)
    draw = partial(_shard, seed=seed, sizes=tuple(sizes))
    parts = [range(start, min(start + shard_images, num_images)) for start in starts]
    for number, data in enumerate(_in_order(draw, parts, num_processes=num_processes)):
        storage.write(join(folder, f"scenes-{number:04}.tar"), data)


def encode_scene(scene: Scene, *, quality: int) -> dict[str, bytes]:
    """Encodes a scene to its files, by extension."""
    segments = [
        {"id": number, "label_id": label, "iscrowd": 0}
        for number, label in enumerate(scene.label_ids, start=1)
    ]
    return {
        "jpg": _encoded(scene.pixels, "JPEG", quality=quality),
        "png": _encoded(scene.ids, "PNG", compress_level=4),
        "json": json.dumps({"segments_info": segments}).encode(),
    }


def _in_order(
    draw: "partial[bytes]", parts: Sequence[range], *, num_processes: int
) -> Iterator[bytes]:
    if num_processes == 1:
        yield from map(draw, parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        yield from pool.map(draw, parts)


def _shard(indices: range, *, seed: int, sizes: tuple[tuple[int, int], ...]) -> bytes:
    """Encodes a tar of these scenes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for index in indices:
            random = Random(f"file {seed} {index}")
            scene = draw_scene(index, seed=seed, size=random.choice(sizes))
            for extension, data in encode_scene(scene, quality=random.randint(78, 96)).items():
                member = tarfile.TarInfo(f"scene-{index:06}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _encoded(values: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()
