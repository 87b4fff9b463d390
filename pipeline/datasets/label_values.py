"""Reads label maps whose values are label ids, other numbers, or colours."""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from pipeline.datasets.maps import decode_colours, decode_label_map
from pipeline.datasets.target import LabelError, Labels, Target, label_map_target
from pipeline.runtime.wording import count, list_some

Colour = tuple[int, int, int]

_UNKNOWN = np.iinfo(np.uint16).max


@dataclass(frozen=True, kw_only=True)
class MapColours:
    """The colours of a colour-coded map."""

    of_labels: tuple[Colour, ...]
    """By label id."""
    void: tuple[Colour, ...]
    """The colours that are ignored."""
    grey_too: bool
    """True to read maps of one channel and palettes by their colours, not by their values."""


@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """The rule by which label maps are read."""

    ignore_index: int
    """The value of pixels that are ignored."""
    is_ignore_index_given: bool = True
    """False for the default."""
    reduce_labels: bool = False
    """0 is ignored too, and the value of a label is its id plus one, as in ADE20K."""
    values: tuple[int, ...] | None = None
    """The value of each label, by label id; None where values are the ids."""
    colours: MapColours | None = None

    def target(self, data: bytes, *, labels: Labels, source: str) -> Target:
        """Reads the target of an encoded map.

        Args:
            source: the image and its file, for messages.

        Raises:
            LabelError: it is damaged, or holds a value that is no label.
        """
        if self.colours is not None:
            colours = decode_colours(data, source=source, grey_too=self.colours.grey_too)
            if colours is not None:
                return self._of_colours(colours, labels=labels, source=source)
        values = decode_label_map(data, source=source)
        if self.values is not None:
            return self._of_values(values, labels=labels, source=source)
        return label_map_target(
            values,
            labels=labels,
            ignore_index=self.ignore_index,
            reduce_labels=self.reduce_labels,
            source=source,
        )

    def _of_values(
        self, values: Integer[np.ndarray, "height width"], *, labels: Labels, source: str
    ) -> Target:
        assert self.values is not None
        first, void = int(self.reduce_labels), len(labels.names)
        known = {value + first: label for label, value in enumerate(self.values)}
        known |= {0: void} if self.reduce_labels else {}
        known.setdefault(self.ignore_index, void)
        present = np.unique(values).tolist()
        if wrong := [value for value in present if value not in known]:
            raise LabelError(
                f"{source}: a label must be one of {list_some(sorted(known))}, as the names of the "
                f"labels say; the map holds {list_some(wrong)}"
            )
        new = np.array([known[value] for value in present], np.uint16)
        ids = new[np.searchsorted(present, values)]
        return label_map_target(ids, labels=labels, ignore_index=void, source=source)

    def _of_colours(
        self, colours: Integer[np.ndarray, "height width"], *, labels: Labels, source: str
    ) -> Target:
        assert self.colours is not None
        ids = _ids_by_colour(self.colours)[colours]
        if (ids == _UNKNOWN).any():
            found, counts = np.unique(colours[ids == _UNKNOWN], return_counts=True)
            most = int(np.argmax(counts))
            red, green, blue = (int(found[most]) >> shift & 255 for shift in (0, 8, 16))
            others = f", and {count(len(found) - 1, 'more colour')}" if len(found) > 1 else ""
            raise LabelError(
                f"{source}: every colour must be a label's, [{red}, {green}, {blue}] is not "
                f"({count(int(counts[most]), 'pixel')}{others}); add it to the colours in "
                'labels.json, or as "ignore_color" if it is to be ignored'
            )
        return label_map_target(ids, labels=labels, ignore_index=len(labels.names), source=source)


@functools.lru_cache(maxsize=2)
def _ids_by_colour(colours: MapColours) -> Integer[np.ndarray, " colours"]:
    """Returns the label id of each of the 2^24 colours; ignored ones have the number of labels."""
    ids = np.full(1 << 24, _UNKNOWN, np.uint16)
    for void in colours.void:
        ids[_number(void)] = len(colours.of_labels)
    for label, colour in enumerate(colours.of_labels):
        ids[_number(colour)] = label
    return ids


def _number(colour: Colour) -> int:
    return colour[0] | colour[1] << 8 | colour[2] << 16
