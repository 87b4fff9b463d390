"""What made a table that no model made."""

from typing import Any

from pipeline.table.store import TableSpec


def panoptic_spec(*labels: str, **changes: Any) -> TableSpec:
    """Returns that of a panoptic run with the default thresholds, which knows these labels."""
    fields: dict[str, Any] = {
        "model_fingerprint": "f" * 64,
        "task": "panoptic",
        "threshold": 0.5,
        "mask_threshold": 0.5,
        "overlap_mask_area_threshold": 0.8,
        "label_ids_to_fuse": (),
        "resize_rule": "transformers",
        "precision": "fp32",
        "decode": "exact",
        "labels": labels,
    }
    return TableSpec(**{**fields, **changes})
