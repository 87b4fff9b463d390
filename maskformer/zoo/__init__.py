"""The zoo: every published MaskFormer by name, with all that is published of it.

`MODELS` maps names to entries; `maskformer zoo` prints them. `from_pretrained` of model,
configuration and image processor takes these names. Starts without torch.
"""

from collections.abc import Sequence
from pathlib import Path

from maskformer.zoo.entry import Entry
from maskformer.zoo.fetching import fetched_folder
from maskformer.zoo.models import MODELS

__all__ = [
    "MODELS",
    "Entry",
    "entry_of",
    "fetched_folder",
    "known_things",
    "label_maps_count_from_one",
]


def entry_of(name_or_folder: str) -> Entry | None:
    """The entry of this name; a folder or file of the name comes before it."""
    if Path(name_or_folder).exists():
        return None
    return MODELS.get(name_or_folder)


def known_things(labels: Sequence[str], *, hub_id: str) -> frozenset[int] | None:
    """The things of a published model, known by its labels or by its name on the hub; None of
    others.

    Published files do not say themselves which of their labels are things.
    """
    for entry in MODELS.values():
        known = entry.dataset.labels
        is_on_hub = entry.weights.hub_id == hub_id and len(known) == len(labels)
        if entry.things and (known == tuple(labels) or is_on_hub):
            return entry.things
    return None


def label_maps_count_from_one(labels: Sequence[str]) -> bool:
    """Tells whether labels are those of a published data set in whose maps 0 counts for nothing
    and 1 is the first label."""
    return any(
        entry.dataset.zero_is_ignored and entry.dataset.labels == tuple(labels)
        for entry in MODELS.values()
    )
