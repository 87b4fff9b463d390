"""Reads CVAT's XML for images, version 1.1: masks and polygons of each image."""

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from pipeline.exchange.importing.annotations import FileImage, Kind, Region, UnreadableFile

_CHUNK_BYTES = 1 << 20
_SHAPES = ("mask", "polygon", "box", "polyline", "points", "ellipse", "cuboid", "skeleton")
_FIRST_BYTES = 4096


class CvatReader:
    """Reads `annotations.xml`. Shapes of a higher z_order lie on top; of one z_order, later ones.

    Attributes of shapes, tags of images and points inside skeletons are skipped.
    """

    decides_overlaps = True
    labels = None

    def __init__(self, file: BinaryIO, *, uri: str) -> None:
        self._file, self._uri = file, uri
        self._reviewer: str | None = None
        self._is_cvat = False
        self._num_images = 0

    def __iter__(self) -> Iterator[FileImage | Region]:
        parser: XMLPullParser[Element] = XMLPullParser(events=("start", "end"))
        open_tags: list[Element] = []
        try:
            while data := self._file.read(_CHUNK_BYTES):
                if not self._is_cvat and b"<!DOCTYPE" in data[:_FIRST_BYTES]:
                    raise UnreadableFile(f"{self._uri} must have no DOCTYPE; CVAT writes none")
                parser.feed(data)
                yield from self._read_events(parser, open_tags)
            parser.close()
            yield from self._read_events(parser, open_tags)
        except ParseError as error:
            is_cut = "no element found" in str(error) or "unclosed" in str(error)
            what = "is cut off" if is_cut else "must be XML, and is not"
            raise UnreadableFile(f"{self._uri} {what}: {error}") from None
        except KeyError as error:
            raise UnreadableFile(
                f"{self._uri}: <{open_tags[-1].tag}> must have {error.args[0]}"
            ) from None

    def _read_events(
        self, parser: "XMLPullParser[Element]", open_tags: list[Element]
    ) -> Iterator[FileImage | Region]:
        events: Iterator[tuple[str, Element]] = parser.read_events()  # type: ignore[assignment]
        for event, tag in events:
            if event == "start":
                open_tags.append(tag)
                yield from self._begin(open_tags)
                continue
            yield from self._end(open_tags)
            open_tags.pop()
            if open_tags and open_tags[-1].tag in ("annotations", "image"):
                # The parent would keep every shape and image that was read.
                open_tags[-1].remove(tag)

    def _begin(self, open_tags: list[Element]) -> Iterator[FileImage | Region]:
        tag = open_tags[-1]
        if len(open_tags) == 1:
            if tag.tag != "annotations":
                raise UnreadableFile(
                    f"{self._uri} must be CVAT's XML, <annotations>, and begins with <{tag.tag}>"
                )
            self._is_cvat = True
        elif len(open_tags) == 2 and tag.tag == "track":
            raise UnreadableFile(
                f"{self._uri} holds tracks of a video; export the task as 'CVAT for images 1.1'"
            )
        elif len(open_tags) == 2 and tag.tag == "image":
            # Not its id: in an export of a project, each task counts its images from 0.
            self._num_images += 1
            yield FileImage(
                key=str(self._num_images),
                name=tag.attrib["name"],
                height=self._number(tag, "height"),
                width=self._number(tag, "width"),
                reviewer=self._reviewer,
            )

    def _end(self, open_tags: list[Element]) -> Iterator[FileImage | Region]:
        tag = open_tags[-1]
        if len(open_tags) == 2 and tag.tag == "meta":
            names = (tag.findtext(f".//{who}/username") for who in ("assignee", "owner"))
            self._reviewer = next(filter(None, names), None)
        elif len(open_tags) == 3 and open_tags[1].tag == "image" and tag.tag in _SHAPES:
            kind, payload = self._mask(tag)
            yield Region(
                image=str(self._num_images),
                label=tag.attrib["label"],
                kind=kind,
                payload=payload,
                level=self._number(tag, "z_order") if "z_order" in tag.attrib else 0,
                name=f"<{tag.tag}>",
            )

    def _mask(self, tag: Element) -> tuple[Kind, bytes]:
        shape: Mapping[str, str] = tag.attrib
        if tag.tag == "mask":
            box = [self._number(tag, name) for name in ("left", "top", "width", "height")]
            return "cvat", json.dumps({"box": box, "rle": shape["rle"]}).encode()
        if tag.tag == "polygon":
            try:
                points = [float(v) for pair in shape["points"].split(";") for v in pair.split(",")]
            except ValueError:
                return "problem", f"has points that are no numbers: {shape['points'][:40]}".encode()
            return "polygons", json.dumps([points]).encode()
        return "problem", b"is no mask and no polygon; draw it as one, or delete it"

    def _number(self, tag: Element, name: str) -> int:
        try:
            return int(tag.attrib[name])
        except ValueError:
            raise UnreadableFile(
                f"{self._uri}: {name} of <{tag.tag}> must be a whole number, got "
                f"{tag.attrib[name][:40]!r}"
            ) from None
