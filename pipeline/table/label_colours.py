"""Gives each label a colour for pictures: natural where its name says so, else one of its own.

Sky is blue and trees are green in every table, whatever number its model gives them.
"""

import colorsys
import re

_GOLDEN = 0.618034

_NATURAL = {
    (92, 160, 235): "sky cloud clouds",
    (40, 110, 200): "water sea river lake ocean waterfall pool fountain",
    (20, 120, 50): "tree trees forest plant vegetation bush palm flower",
    (110, 190, 70): "grass field terrain lawn hill moss",
    (100, 100, 110): "road street pavement sidewalk platform runway asphalt gravel parking",
    (170, 120, 70): "ground earth dirt sand mud land soil path mountain rock stone",
    (215, 110, 70): "house building skyscraper tower roof wall brick hovel",
    (170, 170, 160): "ceiling bridge fence pole concrete",
    (225, 235, 245): "snow ice",
    (235, 60, 80): "person pedestrian rider people human man woman child",
    (60, 90, 230): "car truck bus van train vehicle",
    (240, 230, 220): "boat ship",
    (250, 190, 40): "ball banana lemon",
    (190, 80, 200): "bicycle bicyclist motorcycle bike",
    (150, 90, 40): "horse cow dog cat sheep elephant bear giraffe zebra animal",
}
_BY_WORD = {word: colour for colour, words in _NATURAL.items() for word in words.split()}


def label_colour(label: str, label_id: int) -> tuple[int, int, int]:
    """Returns the red, green and blue of a label, each in [0, 255].

    The last known word of the name decides: `palm tree` is a tree, `swimming pool` is water. A name
    without one gets a hue by its id; neighbouring ids are far apart.
    """
    words = re.findall(r"[a-z]+", label.lower())
    for word in reversed(words):
        if word in _BY_WORD:
            return _BY_WORD[word]
    red, green, blue = colorsys.hsv_to_rgb((label_id * _GOLDEN) % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def segment_colour(label: str, label_id: int, segment_id: int) -> tuple[float, float, float]:
    """Returns the label's colour, a little darker or lighter from one segment to the next."""
    brightness = 0.7 + 0.3 * ((segment_id * _GOLDEN) % 1)
    red, green, blue = label_colour(label, label_id)
    return red * brightness, green * brightness, blue * brightness
