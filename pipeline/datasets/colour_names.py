"""Reads the label of each colour of colour-coded maps, from JSON or from a text file.

`labelmap.txt` has lines `car:128,0,0::` (CVAT's masks, after VOC), `label_colors.txt` lines
`64 0 128 Car` (CamVid).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.datasets.label_values import Colour

_NAMES_OF_VOID = ("void", "ignore", "ignored", "unlabeled", "unlabelled")
_VOC_BORDER = (224, 224, 192)
_LINES = (
    re.compile(r"(?P<name>[^:]+):(?P<colour>\d+,\d+,\d+)(:.*)?"),
    re.compile(r"(?P<colour>\d+\s+\d+\s+\d+)\s+(?P<name>\S.*)"),
)


@dataclass(frozen=True, kw_only=True)
class ColourNames:
    """The colour of each label by its name, and the colours that are ignored."""

    of_labels: Mapping[str, Colour]
    void: tuple[Colour, ...]

    @classmethod
    def of(cls, colours: Any, *, ignored: Any, source: str) -> "ColourNames":
        """Reads `colors` of labels.json. The name void and VOC's border are ignored.

        Args:
            ignored: a colour or a list of colours that are ignored; None for none.

        Raises:
            ValueError: a colour is none, or two labels have the same.
        """
        if not isinstance(colours, Mapping) or not colours:
            raise ValueError(
                f'{source}: colors must be {{"road": [128, 64, 128], ...}}, a colour for each '
                f"label, got {json.dumps(colours)[:60]}"
            )
        all_named = {name: _colour(given, source=source) for name, given in colours.items()}
        of_labels: dict[str, Colour] = {}
        for name, colour in all_named.items():
            if name.casefold() in _NAMES_OF_VOID:
                continue
            if colour in of_labels.values():
                twin = next(other for other, same in of_labels.items() if same == colour)
                raise ValueError(
                    f"{source}: each label must have a colour of its own, {twin!r} and {name!r} "
                    f"are both {list(colour)}"
                )
            of_labels[name] = colour
        if not of_labels:
            raise ValueError(f"{source}: colors must name a label, got {', '.join(all_named)}")
        several = isinstance(ignored, list) and ignored and isinstance(ignored[0], list)
        listed = [] if ignored is None else ignored if several else [ignored]
        void = {
            *(_colour(each, source=source) for each in listed),
            *(colour for name, colour in all_named.items() if name not in of_labels),
            _VOC_BORDER,
        }
        return cls(of_labels=of_labels, void=tuple(sorted(void - {*of_labels.values()})))


def colour_names(data: bytes, *, source: str) -> ColourNames:
    """Parses a text file of labels and colours.

    Raises:
        ValueError: a line names no colour.
    """
    colours = {}
    for number, line in enumerate(data.decode("utf-8", "replace").lstrip("\ufeff").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = next((match for form in _LINES if (match := form.fullmatch(text))), None)
        if found is None:
            raise ValueError(
                f"{source}, line {number}: must be a label and its colour, as road:128,64,128:: or "
                f"128 64 128 road, got {text[:60]!r}"
            )
        name = found["name"].strip()
        if name in colours:
            raise ValueError(f"{source}, line {number}: the label {name!r} is there twice")
        colours[name] = [int(part) for part in re.split(r"[,\s]+", found["colour"])]
    return ColourNames.of(colours, ignored=None, source=source)


def _colour(given: Any, *, source: str) -> Colour:
    is_colour = (
        isinstance(given, list)
        and len(given) == 3
        and all(type(part) is int and 0 <= part < 256 for part in given)
    )
    if not is_colour:
        raise ValueError(
            f"{source}: a colour must be [red, green, blue], each in 0 to 255, got "
            f"{json.dumps(given)[:60]}"
        )
    return given[0], given[1], given[2]
