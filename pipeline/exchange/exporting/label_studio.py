"""Writes tasks of Label Studio with a prediction each: a brush for every segment.

    tasks.json          import it into a project; <split>.json with --splits
    label_config.xml    the project's labelling interface
    images/             photographs, served as /data/local-files/ where OUT is the document root

Label Studio serves files of its machine with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and
LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=OUT, once OUT/images is a local storage of the project. In a
bucket, tasks name the objects themselves, for a cloud storage of the project. With --images none
the photographs stay where they are: below --image_root, which on a disk is the document root.
"""

import json
import sys
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.corpora.image_parts import place_below, source_kind, source_name
from pipeline.exchange.box_masks import box_mask, row_runs
from pipeline.exchange.exporting.output import GrowingFile
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.label_studio_brush import encode_brush
from pipeline.exchange.records import ExportSegment, ImageExport
from pipeline.exchange.settings import DEFAULT_SPLIT
from pipeline.runtime.wording import count
from pipeline.storage.uris import LOCAL, protocol

MOST_REGIONS = 30
"""Regions of an image from which on Label Studio's page gets slow: each is a layer of its own."""

_IMAGES = "images"
_NO_ADDRESS = (
    "the address of a photograph inside an archive, or on this machine outside of the export; "
    "export with --images copy, or name the document root by --image_root"
)


class LabelStudio:
    """Writes one JSON of tasks for each split."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._files: dict[str, GrowingFile] = {}
        self._are_empty = dict.fromkeys(plan.splits, True)
        self._num_slow = 0
        for split in plan.splits:
            name = "tasks" if split == DEFAULT_SPLIT else split
            self._files[split] = plan.output.grow(f"{name}.json")
            self._files[split].write(b"[")

    def add(self, image: ImageExport) -> None:
        """Writes the image's task, and its photograph."""
        self._num_slow += len(image.segments) > MOST_REGIONS
        file = self._files[image.split]
        file.write(b"\n" if self._are_empty[image.split] else b",\n")
        self._are_empty[image.split] = False
        file.write(json.dumps(self._task(image), ensure_ascii=False).encode())
        self._plan.output.write_photo(f"{_IMAGES}/{image.name}", image)

    def finish(self) -> None:
        """Ends the JSONs, and writes the labelling interface."""
        for file in self._files.values():
            file.write(b"\n]\n")
            file.finish()
        self._plan.output.write("label_config.xml", self._config().encode())
        if self._num_slow:
            print(
                f"{count(self._num_slow, 'image')} with more than {MOST_REGIONS} segments: Label "
                "Studio's page gets slow with so many; --min_score, --labels or --where leave some "
                "out",
                file=sys.stderr,
            )

    def _task(self, image: ImageExport) -> dict[str, Any]:
        scores = [segment.score for segment in image.segments if segment.score is not None]
        prediction: dict[str, Any] = {
            "model_version": image.model,
            "result": [_region(segment, image=image) for segment in image.segments],
        }
        if scores:
            prediction["score"] = sum(scores) / len(scores)
        return {
            "data": {
                "image": self._address(image),
                "table_image_id": image.image_id,
                "table_etag": image.etag,
                "table_revision": image.revision,
                "height": image.height,
                "width": image.width,
            },
            "predictions": [prediction],
        }

    def _address(self, image: ImageExport) -> str:
        name = f"{_IMAGES}/{image.name}"
        if self._plan.has_photos and protocol(self._plan.output.uri) in LOCAL:
            return f"/data/local-files/?d={quote(name)}"
        if self._plan.has_photos:
            return self._plan.output.file(name)
        if source_kind(image.uri) == "file":
            root = self._plan.image_root
            own = source_name(image.uri, image_id=image.image_id)
            place = image.uri if root is None else place_below(root, own)
            if protocol(place) not in LOCAL:
                return place
            if root is not None:
                return f"/data/local-files/?d={quote(own)}"
        self._plan.losses[_NO_ADDRESS] += 1
        return f"/data/local-files/?d={quote(name)}"

    def _config(self) -> str:
        labels = "".join(
            f"    <Label value={quoteattr(label.name)} "
            'background="#{:02x}{:02x}{:02x}"/>\n'.format(*label.colour)
            for label in self._plan.labels
        )
        return (
            '<View>\n  <Image name="image" value="$image" zoom="true" zoomControl="true"/>\n'
            f'  <BrushLabels name="label" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
        )


def _region(segment: ExportSegment, *, image: ImageExport) -> dict[str, Any]:
    left, top, _, _ = segment.box_xywh
    size = {"height": image.height, "width": image.width}
    mask = box_mask(segment.rle, box_xywh=segment.box_xywh, **size)
    runs = row_runs(mask, left=left, top=top, width=image.width)
    region: dict[str, Any] = {
        "id": f"segment-{segment.segment_id}",
        "type": "brushlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {
            "format": "rle",
            "rle": encode_brush(runs, **size),
            "brushlabels": [segment.label],
        },
    }
    return region if segment.score is None else {**region, "score": segment.score}
