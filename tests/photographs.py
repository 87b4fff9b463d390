"""Photographs for benchmarks: CamVid's where the development data is, else scenes drawn by code."""

import sys
import tarfile
from pathlib import Path

from pipeline.demo.scenes.scene import draw_scene
from pipeline.demo.scenes.shards import encode_scene

_SIZE = (720, 960)


def write_photographs(folder: Path, *, shared: Path, number: int | None = None) -> list[Path]:
    """Writes photographs of 960 x 720 as JPEGs, evenly spaced among all; all of them for None."""
    folder.mkdir(parents=True)
    archive = shared / "data" / "camvid" / "val-0000.tar"
    if not archive.is_file():
        print(f"{archive} is not there: drawn scenes stand for photographs", file=sys.stderr)
        return [_drawn(folder, index) for index in range(number or 24)]
    with tarfile.open(archive) as members:
        names = sorted(name for name in members.getnames() if name.endswith(".jpg"))
        count = len(names) if number is None else number
        chosen = [names[index * len(names) // count] for index in range(count)]
        for name in chosen:
            content = members.extractfile(name)
            assert content is not None
            (folder / name).write_bytes(content.read())
    return [folder / name for name in chosen]


def _drawn(folder: Path, index: int) -> Path:
    path = folder / f"{index:04}.jpg"
    files = encode_scene(draw_scene(index, seed=1, size=_SIZE), quality=90)
    path.write_bytes(files["jpg"])
    return path
