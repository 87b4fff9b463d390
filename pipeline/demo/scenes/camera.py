"""Projects points of a flat ground to pixels, and gives the scale at each distance.

Ground is measured in metres: x to the right of the camera, z away from it. Pixels are rows and
columns; the horizon is a row.
"""

from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A level camera above a flat ground."""

    height: int
    width: int
    horizon: float
    """The row at which the ground ends."""
    focal: float
    """Pixels that one metre covers at one metre's distance."""
    eye: float
    """Metres above the ground."""

    def scale(self, z: float) -> float:
        """Returns the pixels per metre at this distance."""
        return self.focal / z

    def point(self, x: float, z: float) -> tuple[int, int]:
        """Returns the (row, column) of a point of the ground, inside the picture or not."""
        scale = self.scale(z)
        return round(self.horizon + self.eye * scale), round(self.width / 2 + x * scale)

    def x_at(self, column: float, z: float) -> float:
        return (column - self.width / 2) / self.scale(z)

    @property
    def nearest(self) -> float:
        """Returns the distance of the ground at the lower edge."""
        return self.focal * self.eye / (self.height - self.horizon)

    @property
    def first_row(self) -> int:
        """Returns the highest row that shows ground."""
        return int(self.horizon) + 1

    @cached_property
    def z(self) -> Float32[np.ndarray, "rows 1"]:
        """Returns the distance of the ground in each row from `first_row` down."""
        rows = np.arange(self.first_row, self.height, dtype=np.float32)[:, None] + 0.5
        return self.focal * self.eye / (rows - self.horizon)

    @cached_property
    def x(self) -> Float32[np.ndarray, "rows width"]:
        columns = np.arange(self.width, dtype=np.float32) + (0.5 - self.width / 2)
        return columns * self.z / self.focal


def choose_camera(random: Random, *, size: tuple[int, int]) -> Camera:
    """Chooses a height, from a child's eye to a third-floor window, and a wide or narrow lens."""
    height, width = size
    return Camera(
        height=height,
        width=width,
        horizon=height * random.uniform(0.24, 0.5),
        focal=max(height, width) * random.uniform(0.8, 1.35),
        eye=random.choice((1.5, 2.2, 3.0, 4.0, 5.5, 7.5)) * random.uniform(0.85, 1.15),
    )
