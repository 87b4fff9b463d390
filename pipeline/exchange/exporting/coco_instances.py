"""Writes COCO's instances: the run lengths of each segment, as the table holds them.

Read by pycocotools, datumaro, supervision, FiftyOne, Detectron2, MMDetection, and our own
`maskformer train`. Run lengths and not polygons, since these lose holes and parts.
"""

from pipeline.exchange.exporting.coco_files import (
    CocoFiles,
    category_id,
    json_line,
    rle_as_json,
    shortest,
)
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ExportSegment, ImageExport


class CocoInstances:
    """Writes one annotation for each segment."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._files = CocoFiles(plan, task="instances")
        self._num_annotations = 0

    def add(self, image: ImageExport) -> None:
        file = self._files.file_of(image)
        self._plan.output.write_photo(file.photo_name(image), image)
        file.add_image(image)
        for segment in image.segments:
            self._num_annotations += 1
            file.add_annotation(_annotation(segment, image, number=self._num_annotations))

    def finish(self) -> None:
        self._files.finish()


def _annotation(segment: ExportSegment, image: ImageExport, *, number: int) -> str:
    """Returns an annotation as JSON; written by hand, for there are many."""
    x, y, w, h = segment.box_xywh
    score = "" if segment.score is None else f', "score": {shortest(segment.score)!r}'
    origin = "" if segment.origin == "model" else f', "origin": {json_line(segment.origin)}'
    return (
        f'{{"id": {number}, "image_id": {image.number}, '
        f'"category_id": {category_id(segment.label_index)}, "iscrowd": 0, '
        f'"area": {segment.area}, "bbox": [{x}, {y}, {w}, {h}], '
        f'"segmentation": {{"size": [{image.height}, {image.width}], '
        f'"counts": {rle_as_json(segment.rle)}}}, '
        f'"segment_id": {segment.segment_id}{score}{origin}}}'
    )
