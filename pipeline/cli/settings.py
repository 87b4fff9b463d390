"""Settings of the commands that have no folder of their own: zoo, convert, demo and doctor."""

from dataclasses import dataclass
from typing import Literal

from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Which weights are written where."""

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
    """Where the demo writes."""

    output: str = "demo"
    """Folder of the corpus, table, scores and picture. A demo that is there is replaced."""


@dataclass(frozen=True, kw_only=True)
class DoctorSettings:
    """What to look at besides this machine."""

    model: str | None = None
    """Folder of a model, its id on the hub or its name in the zoo."""
    corpus: str | None = None
    """Corpus to list, as `maskformer label` takes it."""
    table: str | None = None
    """Segment table, there or still to be made: an object is written there and deleted."""
    ray_address: str | None = None
    """Ray cluster to ask; RAY_ADDRESS where not given."""


ZOO: tuple[type, ...] = ()
"""The parts of the settings of `maskformer zoo`."""

CONVERT = (ConvertSettings,)
"""The parts of a conversion's settings."""

DEMO = (DemoSettings,)
"""The parts of the demo's settings."""

DOCTOR = (DoctorSettings, Storage)
"""The parts of the doctor's settings."""
