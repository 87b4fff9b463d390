"""Tells which segments an export held, so that an import does not take the others for deleted."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.exchange.exporting.selection import Selection, export_labels, open_selection
from pipeline.exchange.importing.grouping import MatchedImage
from pipeline.exchange.importing.settings import ImportSettings
from pipeline.exchange.settings import ExportSettings
from pipeline.reviews.revision import ReviewedSegment
from pipeline.storage import Storage, join
from pipeline.table.store import SEGMENTS, TableStore

_SCHEMA = SEGMENTS.append(pa.field("origin", pa.string()))
_SELECTING = ("labels", "min_score", "where", "segments")


@dataclass(frozen=True, kw_only=True)
class ExportScope:
    """The segments that an export took."""

    selection: Selection | None = None
    """None for an export of all segments."""
    ignored_reviews: bool = False
    """True if the export took the model's segments, reviewed or not."""

    @property
    def is_everything(self) -> bool:
        return self.selection is None

    def left_out(
        self, segments: Sequence[ReviewedSegment], *, image: MatchedImage
    ) -> frozenset[int]:
        """Returns the ids of the segments of an image that the export left out."""
        if self.selection is None or not segments:
            return frozenset()
        of_image = {"image_id": image.image_id, "height": image.height, "width": image.width}
        rows = pa.Table.from_pylist([{**vars(s), **of_image} for s in segments], schema=_SCHEMA)
        kept = {*self.selection.of(rows)["segment_id"].to_pylist()}
        return frozenset(s.segment_id for s in segments if s.segment_id not in kept)


@contextlib.contextmanager
def export_scope(
    settings: ImportSettings, table: TableStore, *, storage: Storage
) -> Iterator[ExportScope]:
    """Opens the export.json that the settings name, or the one beside the file.

    Raises:
        ValueError: it is no export.json of this table.
    """
    content = _read(settings, storage=storage)
    if content is None:
        yield ExportScope()
        return
    asked = content.get("settings") or {}
    selecting = {name: asked[name] for name in _SELECTING if name in asked}
    if "labels" in selecting:
        selecting["labels"] = tuple(selecting["labels"])
    export = ExportSettings(table=table.uri, output="", format="coco_instances", **selecting)
    ignored = asked.get("reviewed") == "ignore"
    if all(getattr(export, name) == getattr(_EVERYTHING, name) for name in _SELECTING):
        yield ExportScope(ignored_reviews=ignored)
        return
    with open_selection(export, export_labels(table.existing_spec(), export)) as selection:
        yield ExportScope(selection=selection, ignored_reviews=ignored)


_EVERYTHING = ExportSettings(table="", output="", format="coco_instances")


def _read(settings: ImportSettings, *, storage: Storage) -> dict[str, Any] | None:
    for place in _places(settings, storage=storage):
        try:
            content = json.loads(storage.read(place))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ValueError(f"{place} must be JSON, and is not: {error}") from error
        if not isinstance(content, dict) or "export" not in content:
            raise ValueError(f"{place} is no export.json; name that of the export by --exported")
        return content
    if settings.exported is not None:
        raise ValueError(f"there is no export.json in {settings.exported}; --exported names an OUT")
    return None


def _places(settings: ImportSettings, *, storage: Storage) -> Iterator[str]:
    """Yields where the export.json may be: that of a JSON of COCO is a folder above it."""
    if settings.exported is not None:
        is_file = settings.exported.endswith(".json")
        yield settings.exported if is_file else join(settings.exported, "export.json")
        return
    folder = storage.absolute(settings.file)
    if settings.format != "label_maps":
        folder = folder.rpartition("/")[0]
    yield join(folder, "export.json")
    yield join(folder.rpartition("/")[0], "export.json")
