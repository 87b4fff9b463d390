"""Tells by their headers which JPEGs a GPU's decoder can be given.

`unit_loader.py` asks where `--decode gpu` is set. All others are decoded here on the CPU, so that
what is damaged, or of a kind that such decoders misread, becomes the error or the pixels that it
always was.
"""

from pipeline.corpora import jpeg

_BASELINE, _START_OF_SCAN, _END, _MULTI_PICTURE, _ADOBE = 0xC0, 0xDA, 0xD9, 0xE2, 0xEE
_TABLES = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # with comments and metadata
_ADOBE_YCC = 1
_SAMPLINGS = ({0x11, 0x21, 0x12, 0x22}, {0x11}, {0x11})
"""Samplings of Y, Cb and Cr: 4:4:4, 4:2:2, 4:4:0 and 4:2:0."""


def is_for_device(data: bytes) -> bool:
    """Returns whether the bytes are one whole baseline JPEG of 8 bits, grey or YCbCr.

    It has one scan with all its components, and nothing behind its end mark.
    """
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return False
    num_components = 0
    has_scan = False
    for marker, position in jpeg.markers(data):
        segment = data[position + 2 : position + int.from_bytes(data[position : position + 2])]
        if marker == _END:
            return has_scan and position == len(data)
        if has_scan:  # between its scan and its end a plain file has no marker
            return False
        if marker == _BASELINE and not num_components:
            num_components = _num_components(segment)
            if not num_components:
                return False
        elif marker == _START_OF_SCAN:
            has_scan = num_components > 0 and segment[:1] == bytes([num_components])
            if not has_scan:
                return False
        elif marker not in _TABLES or not _is_plain(marker, segment):
            return False
    return False


def _num_components(frame: bytes) -> int:
    """Returns 1 or 3; 0 for samples of another kind."""
    if len(frame) < 6 or frame[0] != 8 or frame[1:3] == b"\0\0":
        return 0
    count = frame[5]
    components = [frame[6 + 3 * n : 9 + 3 * n] for n in range(count)]
    if count == 1:
        return 1
    if count != 3 or len(components[-1]) != 3:
        return 0
    if bytes(each[0] for each in components) == b"RGB":
        return 0
    is_known = all(each[1] in known for each, known in zip(components, _SAMPLINGS, strict=True))
    return 3 if is_known else 0


def _is_plain(marker: int, segment: bytes) -> bool:
    """Returns whether metadata say neither that there are more pictures nor other colours."""
    if marker == _MULTI_PICTURE:
        return not segment.startswith(b"MPF\0")
    if marker == _ADOBE and segment.startswith(b"Adobe"):
        return segment[11:12] == bytes([_ADOBE_YCC])
    return True
