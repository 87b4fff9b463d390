"""Keeps which revisions a run learns from, so that it resumes with the same ones.

People go on reviewing while a model is trained. A run takes the revisions that there were when it
began: `OUTPUT/revisions.json` has them, by location of the table and by image.
"""

import json
from typing import Any

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.reviewed_images import Revisions, revisions_of
from pipeline.datasets.settings import DatasetSettings
from pipeline.storage import Storage, join


class ChosenRevisions:
    """Opens the data sets of a run, with the revisions that it began with."""

    def __init__(self, output: str, *, storage: Storage, is_new: bool) -> None:
        self._file = join(output, "revisions.json")
        self._storage = storage
        self._is_new = is_new
        self._of: dict[str, Revisions] = {}
        if not is_new:
            try:
                self._of = json.loads(storage.read(self._file))
            except FileNotFoundError:  # a run without reviews
                self._of = {}

    def open_labelled(self, settings: DatasetSettings, **options: Any) -> LabelledImages:
        """Opens a data set; the options are those of `opening.open_labelled`."""
        dataset = open_labelled(
            settings,
            storage=self._storage,
            revisions=self._of.get(settings.dataset),
            **options,
        )
        chosen = revisions_of(dataset)
        if self._is_new and chosen is not None and any(chosen.values()):
            self._of[settings.dataset] = chosen
        return dataset

    def write(self) -> None:
        """Writes the revisions of a run that begins."""
        if self._is_new and self._of:
            self._storage.write(self._file, json.dumps(self._of, indent=1).encode())
