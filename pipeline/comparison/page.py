"""Renders the report of a comparison, which says in its first line how far two tables agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.comparison.agreement import STATES
from pipeline.comparison.common_labels import CommonLabels
from pipeline.comparison.pictures import Triple
from pipeline.comparison.sums import Sums
from pipeline.runtime.html_pages import page_environment
from pipeline.runtime.wording import count, list_some

_MOST_IN_MATRIX = 15
_OTHERS, _NO_SEGMENT = "others", "no segment"


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The data that the page shows."""

    table_a: str
    table_b: str
    made_a: str
    """A line on the model and settings of the first table."""
    made_b: str
    labels: CommonLabels
    sums: Sums
    worst: Sequence[Mapping[str, Any]]
    """Rows of `AGREEMENT`, the one that differs most first."""
    pictures: Mapping[str, Triple]


def render_comparison(page: ComparisonPage) -> str:
    """Returns the page as HTML."""
    sums, names = page.sums, page.labels.names
    return (
        page_environment("pipeline.comparison")
        .get_template("comparison.html")
        .render(
            headline=headline(sums),
            text=summary(sums),
            table_a=page.table_a,
            table_b=page.table_b,
            made_a=page.made_a,
            made_b=page.made_b,
            numbers=_numbers(sums),
            notes=list(_notes(page)),
            labels=sums.labels(names),
            changes=sums.changes(names),
            total=max(1, int(sums.pixels.sum())),
            matrix=_matrix(sums, names),
            worst=[{**row, "text": describe_image(row)} for row in page.worst],
            pictures=page.pictures,
        )
    )


def headline(sums: Sums) -> str:
    """Returns the share of the area that kept its label, in words."""
    if sums.area_same_label is None:
        return "Nothing to compare"
    return f"{sums.area_same_label:.1%} of the labelled area has the same label"


def summary(sums: Sums) -> str:
    """Returns a sentence with the counts of segments."""
    compared = sums.images.get("both", 0)
    text = f"{count(compared, 'image')} compared"
    if sums.pq is not None:
        text += f", PQ {sums.pq:.1%}"
    return (
        f"{text}; segments kept {sums.kept:,}, lost {sums.lost:,}, gained {sums.gained:,}, "
        f"relabelled {sums.relabelled:,}."
    )


def describe_image(row: Mapping[str, Any]) -> str:
    """Returns a sentence on how an image's segments differ."""
    parts = []
    if row["area_same_label"] is not None:
        parts.append(f"{row['area_same_label']:.1%} of its area has the same label")
    if row["pq"] is not None:
        parts.append(f"PQ {row['pq']:.1%}")
    parts.append(
        f"segments kept {row['kept']:,}, lost {row['lost']:,}, gained {row['gained']:,}, "
        f"relabelled {row['relabelled']:,}"
    )
    if row["change_share"]:
        parts.append(
            f"largest change: {row['change_from'] or _NO_SEGMENT} to "
            f"{row['change_to'] or _NO_SEGMENT}, {row['change_share']:.1%} of the area"
        )
    return "; ".join(parts)


def _numbers(sums: Sums) -> list[tuple[str, str]]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.1%}"

    return [
        ("images compared", f"{sums.images.get('both', 0):,}"),
        ("area with the same label", share(sums.area_same_label)),
        ("PQ of B against A", share(sums.pq)),
        ("segments kept", f"{sums.kept:,}"),
        ("lost", f"{sums.lost:,}"),
        ("gained", f"{sums.gained:,}"),
        ("relabelled", f"{sums.relabelled:,}"),
    ]


def _notes(page: ComparisonPage) -> list[str]:
    notes = [
        f"images {STATES[state]}: {number:,}"
        for state, number in page.sums.images.items()
        if number and state != "both"
    ]
    for names, table in ((page.labels.only_first, "A"), (page.labels.only_second, "B")):
        if names:
            notes.append(f"labels that only {table} has: {list_some(names, at_most=20)}")
    return notes


def _matrix(sums: Sums, names: Sequence[str]) -> dict[str, Any]:
    """Returns the pixels by labels, as shares of rows, of the labels that changed most."""
    pixels = sums.pixels
    changed = pixels.sum(0) + pixels.sum(1) - 2 * np.diag(pixels)
    changed[-1] = -1  # no segment comes last, whatever its pixels
    occurs = np.flatnonzero((pixels.sum(0) + pixels.sum(1))[:-1])
    chosen = occurs[np.argsort(-changed[occurs], kind="stable")][:_MOST_IN_MATRIX]
    others = np.setdiff1d(occurs, chosen)
    groups = [[label] for label in sorted(chosen.tolist())]
    titles = [names[label] for [label] in groups]
    if len(others):
        groups.append(others.tolist())
        titles.append(_OTHERS)
    groups.append([len(names)])
    titles.append(_NO_SEGMENT)
    joined = np.array([[pixels[np.ix_(a, b)].sum() for b in groups] for a in groups], float)
    shares = joined / np.maximum(joined.sum(1, keepdims=True), 1)
    rows = [
        {
            "name": title,
            "cells": [
                {"share": float(share), "is_same": place == own} for own, share in enumerate(row)
            ],
        }
        for place, (title, row, total) in enumerate(zip(titles, shares, joined.sum(1), strict=True))
        if total
    ]
    return {"names": titles, "rows": rows, "left_out": len(others) > 0}
