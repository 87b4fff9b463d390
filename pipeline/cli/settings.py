"""Settings of the commands that have no folder of their own: zoo, convert, demo and doctor."""

from dataclasses import dataclass
from typing import Literal

from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Weights to read, and the folder to write."""

    source: str
    """Folder, file of weights, or hub id."""
    folder: str
    """Folder to write; made where there is none."""
    name: str | None = None
    """Model of the zoo that the weights are of."""
    config: str | None = None
    """config.json of the model, where none lies beside the weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of what is written; auto keeps that of the source."""
    allow_missing: tuple[str, ...] = ()
    """Weights that the source may lack."""
    allow_unexpected: tuple[str, ...] = ()
    """Weights of the source to leave out."""

    def __post_init__(self) -> None:
        if self.name is not None and self.config is not None:
            raise ValueError("--name and --config exclude each other; leave one out")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Folder of the demo."""

    output: str = "demo"
    """Folder for the drawn photos and all that the commands write. An earlier demo there is
    replaced."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """Things to look at besides this machine."""

    model: str | None = None
    """A folder, a name that `maskformer zoo` lists, or a hub id."""
    corpus: str | None = None
    """Images to list, as `maskformer label` takes them."""
    table: str | None = None
    """Segment table; a test object is written there and deleted."""
    ray_address: str | None = None
    """Ray cluster to ask; by default RAY_ADDRESS."""


ZOO: tuple[type, ...] = ()
"""The parts of the settings of `maskformer zoo`."""

CONVERT = (ConvertSettings,)
"""The parts of a conversion's settings."""

DEMO = (DemoSettings,)
"""The parts of the demo's settings."""

DOCTOR = (DoctorSettings, Storage)
"""The parts of the doctor's settings."""
