"""Writes CVAT's XML for images, version 1.1: a mask for each segment.

    annotations.xml     import it into a task as "CVAT 1.1"; <split>.xml with --splits
    labels.json         labels of the task, for the Raw tab of CVAT's label editor
    images/             photographs under the names in the XML

CVAT finds an image of its task by name, and refuses labels that the task does not have.
"""

import json
import re
from xml.sax.saxutils import escape, quoteattr

from pipeline.exchange.box_masks import box_mask
from pipeline.exchange.cvat_runs import encode_cvat_runs
from pipeline.exchange.exporting.output import GrowingFile
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportLabel, ExportSegment, ImageExport
from pipeline.exchange.settings import DEFAULT_SPLIT

_IMAGES = "images"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Cvat:
    """Writes one XML for each split."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._files: dict[str, GrowingFile] = {}
        self._frames: dict[str, int] = {}
        for split in plan.splits:
            name = "annotations" if split == DEFAULT_SPLIT else split
            self._files[split] = plan.output.grow(f"{name}.xml")
            self._files[split].write(_head(plan.labels).encode())
            self._frames[split] = 0

    def add(self, image: ImageExport) -> None:
        """Writes the image's element, and its photograph."""
        # Segments of the task instance may overlap; the later one lies on top, as in other formats.
        levels = self._plan.task == "instance"
        lines = [
            f'  <image id="{self._frames[image.split]}" name={_text(image.name)} '
            f'width="{image.width}" height="{image.height}">'
        ]
        lines += [
            _mask(segment, image=image, level=number if levels else 0)
            for number, segment in enumerate(image.segments)
        ]
        lines.append("  </image>\n")
        self._frames[image.split] += 1
        self._files[image.split].write("\n".join(lines).encode())
        self._plan.output.write_photo(f"{_IMAGES}/{image.name}", image)

    def finish(self) -> None:
        """Ends the XMLs, and writes the labels of the task."""
        for file in self._files.values():
            file.write(b"</annotations>\n")
            file.finish()
        labels = [
            {"name": label.name, "color": _hexadecimal(label), "attributes": []}
            for label in self._plan.labels
        ]
        content = json.dumps(labels, indent=1, ensure_ascii=False)
        self._plan.output.write("labels.json", content.encode())


def _head(labels: tuple[ExportLabel, ...]) -> str:
    listed = "".join(
        f"        <label>\n          <name>{escape(_legal(label.name))}</name>\n"
        f"          <color>{_hexadecimal(label)}</color>\n          <type>any</type>\n"
        "          <attributes>\n          </attributes>\n        </label>\n"
        for label in labels
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        "  <meta>\n    <task>\n      <mode>annotation</mode>\n      <overlap>0</overlap>\n"
        f"      <labels>\n{listed}      </labels>\n    </task>\n  </meta>\n"
    )


def _mask(segment: ExportSegment, *, image: ImageExport, level: int) -> str:
    left, top, width, height = segment.box_xywh
    mask = box_mask(segment.rle, height=image.height, width=image.width, box_xywh=segment.box_xywh)
    runs = ", ".join(map(str, encode_cvat_runs(mask)))
    source = "auto" if segment.origin == "model" else "manual"
    return (
        f'    <mask label={_text(segment.label)} source="{source}" occluded="0" rle="{runs}" '
        f'left="{left}" top="{top}" width="{width}" height="{height}" z_order="{level}">\n'
        "    </mask>"
    )


def _hexadecimal(label: ExportLabel) -> str:
    return "#{:02x}{:02x}{:02x}".format(*label.colour)


def _text(value: str) -> str:
    return quoteattr(_legal(value))


def _legal(value: str) -> str:
    """Replaces characters that XML cannot hold, which no name of an image has."""
    return _NOT_IN_XML.sub("\ufffd", value)
