"""AP of instances in two ways: of a table's rows, and as it is published.

A table's rows are sure of themselves and share no pixel. AP is published of the best pairs of a
query and a label, without a threshold, with whole masks that overlap: a higher number, and the one
to compare with others' results.
"""

from collections.abc import Mapping
from typing import Any

from maskformer import MaskAP

NUM_WHOLE_INSTANCES = 100
"""Of an image, as published."""

PUBLISHED = "published_"
"""What the names of the published way begin with."""


class InstanceAP:
    """Both, over all instances of all images together."""

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
            whole: the best instances with their whole masks; None where only rows are known.
        """
        self._of_rows.update(rows, target, image_id=image_id)
        if whole is None:
            self._has_published = False
        else:
            self._published.update(whole, target, image_id=image_id)

    def merge(self, other: "InstanceAP") -> "InstanceAP":
        """Adds the sums of another worker to these; returns this one."""
        self._of_rows.merge(other._of_rows)
        self._published.merge(other._published)
        self._has_published &= other._has_published
        return self

    def compute(self) -> dict[str, Any]:
        """What `MaskAP` gives of the rows; and of whole masks, if they are known of all images."""
        published = self._published.compute() if self._has_published else {}
        return self._of_rows.compute() | {PUBLISHED + name: v for name, v in published.items()}
