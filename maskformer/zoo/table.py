"""The zoo as a table of text."""

from collections.abc import Iterable

from maskformer.zoo.entry import LICENCE, Entry

_HEADS = ("name", "parameters", "labels", "image size", "result", "with augmentation", "hub")
_GAP = "  "


def zoo_table(entries: Iterable[Entry]) -> str:
    """Writes a line for each entry under a line of heads; edges in pixels, results in per cent."""
    rows = [_HEADS, *(_row(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, _GAP.join("-" * width for width in widths))
    note = f"Released weights are {LICENCE}: not for commercial use."
    return "\n".join([*lines, "", note])


def _row(entry: Entry) -> tuple[str, ...]:
    published, testing = entry.published, entry.testing
    is_panoptic = published.pq is not None
    augmented = published.miou_augmented
    return (
        entry.name,
        f"{entry.num_parameters / 1e6:.0f} M",
        str(len(entry.dataset.labels)),
        f"{testing.short_edge} to {testing.max_edge}",
        f"{published.pq:.1f} PQ" if is_panoptic else f"{published.miou:.1f} mIoU",
        "" if augmented is None else f"{augmented:.1f} mIoU",
        entry.weights.hub_id or "",
    )
