"""Writes `labels.json`, by which our own readers of maps know names, things and void."""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.exchange.records import ExportLabel


def labels_json(labels: Sequence[ExportLabel], **others: Any) -> bytes:
    """Returns the names by index and the things among them; `others` are further fields."""
    content = {
        "labels": [label.name for label in labels],
        "things": [label.index for label in labels if label.is_thing],
        **others,
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
