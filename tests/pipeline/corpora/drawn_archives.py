"""Archives that tests draw, and what is read of them."""

import io
import tarfile

from pipeline.corpora.archives import ArchiveDamage
from pipeline.corpora.samples import ArchiveSample, samples

EXTENSIONS = ("jpg", "png", "webp")
LONG = "folder/" * 20 + "x" * 120  # longer than any field of a header
Files = dict[str, bytes] | list[tuple[str, bytes]]


def tar_in_format(files: Files, *, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def read_members(data: bytes, **options: int) -> tuple[list[ArchiveSample], ArchiveDamage | None]:
    """The samples before damage, and the damage."""
    found = []
    try:
        for sample in samples(
            io.BytesIO(data), image_members=EXTENSIONS, **{"max_image_bytes": 2**20, **options}
        ):
            found.append(sample)
    except ArchiveDamage as damage:
        return found, damage
    return found, None


def images_by_name(found: list[ArchiveSample]) -> dict[str, bytes | None]:
    return {sample.image.name: sample.data for sample in found if sample.image is not None}


def photographs(count: int, *, format: int = tarfile.PAX_FORMAT, longest: bool = True) -> bytes:
    names = [f"{index}.jpg" for index in range(count)]
    if longest and format != tarfile.USTAR_FORMAT:
        names[1] = f"{LONG}.jpg"
    return tar_in_format(
        {name: bytes([index + 1]) * (200 + 450 * index) for index, name in enumerate(names)},
        format=format,
    )
