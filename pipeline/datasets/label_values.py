"""Label values: how label maps write their labels, and from an encoded map to its target.

A map writes a label as its id, as a value of the label's own, or as a colour.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from pipeline.datasets.maps import decode_colours, decode_label_map
from pipeline.datasets.target import LabelError, Labels, MapValues, Target, label_map_target

Colour = tuple[int, int, int]

_UNKNOWN = np.iinfo(np.uint16).max
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class MapColours:
    """The colours of a colour-coded map."""

    of_labels: tuple[Colour, ...]
    """By label id."""
    void: tuple[Colour, ...]
    """Those that count for nothing."""
    grey_too: bool
    """Whether maps of one channel and palettes are read by their colours, or by their values."""


@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """How label maps write labels."""

    ignore_index: int
    """The value of pixels that count for nothing."""
    is_ignore_index_given: bool = True
    """Whether people said so, or it is the default."""
    reduce_labels: bool = False
    """0 counts for nothing too, and the value of a label is its id and one, as in ADE20K."""
    values: tuple[int, ...] | None = None
    """By label id; None where they are the ids."""
    colours: MapColours | None = None

    def target(self, data: bytes, *, labels: Labels, place: str) -> Target:
        """The target of an encoded map.

        Args:
            place: the image and its file, for messages.

        Raises:
            LabelError: it is damaged, or holds what is no label.
        """
        if self.colours is not None:
            colours = decode_colours(data, place=place, grey_too=self.colours.grey_too)
            if colours is not None:
                return self._of_colours(colours, labels=labels, place=place)
        values = decode_label_map(data, place=place)
        if self.values is not None:
            return self._of_values(values, labels=labels, place=place)
        meaning = MapValues(ignore_index=self.ignore_index, reduce_labels=self.reduce_labels)
        return label_map_target(values, labels=labels, meaning=meaning, place=place)

    def _of_values(
        self, values: Integer[np.ndarray, "height width"], *, labels: Labels, place: str
    ) -> Target:
        assert self.values is not None
        first, void = int(self.reduce_labels), len(labels.names)
        known = {value + first: label for label, value in enumerate(self.values)}
        known |= {0: void} if self.reduce_labels else {}
        known.setdefault(self.ignore_index, void)
        present = np.unique(values).tolist()
        if wrong := [value for value in present if value not in known]:
            raise LabelError(
                f"{place}: a label must be one of {_listed(sorted(known))}, as the names of the "
                f"labels say; the map holds {_listed(wrong)}"
            )
        new = np.array([known[value] for value in present], np.uint16)
        return _plain_target(new[np.searchsorted(present, values)], labels=labels, place=place)

    def _of_colours(
        self, colours: Integer[np.ndarray, "height width"], *, labels: Labels, place: str
    ) -> Target:
        assert self.colours is not None
        ids = _ids_by_colour(self.colours)[colours]
        if (ids == _UNKNOWN).any():
            found, counts = np.unique(colours[ids == _UNKNOWN], return_counts=True)
            most = int(np.argmax(counts))
            red, green, blue = (int(found[most]) >> shift & 255 for shift in (0, 8, 16))
            others = f", and {len(found) - 1} more colours" if len(found) > 1 else ""
            raise LabelError(
                f"{place}: every colour must be a label's, [{red}, {green}, {blue}] is not "
                f"({counts[most]} pixels{others}); add it to the colours in labels.json, or as "
                '"ignore_color" if it counts for nothing'
            )
        return _plain_target(ids, labels=labels, place=place)


@functools.lru_cache(maxsize=2)
def _ids_by_colour(colours: MapColours) -> Integer[np.ndarray, " colours"]:
    """The label id of each of the 2^24 colours; the number of labels for void ones."""
    ids = np.full(1 << 24, _UNKNOWN, np.uint16)
    for void in colours.void:
        ids[_number(void)] = len(colours.of_labels)
    for label, colour in enumerate(colours.of_labels):
        ids[_number(colour)] = label
    return ids


def _number(colour: Colour) -> int:
    return colour[0] | colour[1] << 8 | colour[2] << 16


def _plain_target(
    values: Integer[np.ndarray, "height width"], *, labels: Labels, place: str
) -> Target:
    """Of label ids, in which the number of labels is void."""
    void = MapValues(ignore_index=len(labels.names))
    return label_map_target(values, labels=labels, meaning=void, place=place)


def _listed(values: Sequence[int]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more
