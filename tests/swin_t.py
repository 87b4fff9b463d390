"""For the benchmarks: a Swin-T model that keeps queries as a trained one would, and photographs."""

import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SwinT:
    """A model folder in the transformers format, and photographs it was solved on."""

    folder: Path
    photographs: tuple[Path, ...]


def make_swin_t(output: Path, *, shared: Path, num_photographs: int) -> SwinT:
    """Unpacks photographs of CamVid, evenly spaced, and writes the model beside them."""
    photos = output / "photographs"
    photos.mkdir(parents=True)
    with tarfile.open(shared / "data" / "camvid" / "val-0000.tar") as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".jpg"))
        chosen = [names[i * len(names) // num_photographs] for i in range(num_photographs)]
        for name in chosen:
            (photos / name).write_bytes(archive.extractfile(name).read())
    paths = tuple(photos / name for name in chosen)
    folder = output / "swin-t"
    program = shared / "benchmark" / "make_swin_t.py"
    made_of = [str(path) for path in paths[:: max(1, len(paths) // 8)][:8]]
    subprocess.run(
        [sys.executable, str(program), str(folder), *made_of], check=True, capture_output=True
    )
    return SwinT(folder=folder, photographs=paths)
