"""The zoo: every published MaskFormer by name, with all that is published of it.

`MODELS` maps names to entries; `python -m maskformer.zoo` prints them. `from_pretrained` of model,
configuration and image processor takes these names. Starts without torch.
"""

from pathlib import Path

from maskformer.zoo.entry import Entry
from maskformer.zoo.fetching import fetched_folder
from maskformer.zoo.models import MODELS

__all__ = ["MODELS", "Entry", "entry_of", "fetched_folder"]


def entry_of(name_or_folder: str) -> Entry | None:
    """The entry of this name; a folder or file of the name comes before it."""
    if Path(name_or_folder).exists():
        return None
    return MODELS.get(name_or_folder)
