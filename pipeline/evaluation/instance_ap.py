"""Computes AP of instances in two ways: of a table's rows, and as it is published.

A table's rows have scores above a threshold and share no pixel. Published AP is that of the best
pairs of query and label, without a threshold, with whole masks that overlap: it is higher, and the
number to compare with published results.
"""

from collections.abc import Mapping
from typing import Any

from maskformer import MaskAP

NUM_WHOLE_INSTANCES = 100
"""Instances of an image, as published."""

PUBLISHED = "published_"
"""Prefix of the names of published metrics."""


class InstanceAP:
    """AP of rows and published AP, over all instances of all images."""

    def __init__(self, num_labels: int) -> None:
        self._of_rows, self._published = MaskAP(num_labels), MaskAP(num_labels)
        self._has_published = True

    def update(
        self,
        rows: Mapping[str, Any],
        whole: Mapping[str, Any] | None,
        target: Mapping[str, Any],
        *,
        image_id: int,
    ) -> None:
        """Counts one image.

        Args:
            whole: the best instances with their whole masks; None if only rows are known.
        """
        self._of_rows.update(rows, target, image_id=image_id)
        if whole is None:
            self._has_published = False
        else:
            self._published.update(whole, target, image_id=image_id)

    def merge(self, other: "InstanceAP") -> "InstanceAP":
        """Adds the sums of another worker. Returns this object."""
        self._of_rows.merge(other._of_rows)
        self._published.merge(other._published)
        self._has_published &= other._has_published
        return self

    def compute(self) -> dict[str, Any]:
        """Returns the metrics of `MaskAP` for rows, and for whole masks if all images have them."""
        published = self._published.compute() if self._has_published else {}
        return self._of_rows.compute() | {PUBLISHED + name: v for name, v in published.items()}
