"""Writes COCO's panoptic format: a map of segment ids for each image, and a JSON about the ids.

Read by datumaro, panopticapi, Detectron2, MMDetection and our own `maskformer train`. Each image
has an entry and a map, also one without segments. Map and photograph differ in their endings only.
"""

from pipeline.exchange.exporting.coco_files import CocoFiles, json_line, segments_info
from pipeline.exchange.exporting.id_maps import panoptic_map
from pipeline.exchange.exporting.writer import ExportPlan
from pipeline.exchange.records import ImageExport


class CocoPanoptic:
    """Writes one map for each image."""

    def __init__(self, plan: ExportPlan) -> None:
        self._plan = plan
        self._files = CocoFiles(plan, task="panoptic")

    def add(self, image: ImageExport) -> None:
        file, output = self._files.file_of(image), self._plan.output
        painted = panoptic_map(image, losses=self._plan.losses)
        output.write_photo(file.photo_name(image), image)
        output.write_later(f"{file.name}/{image.stem}.png", painted.png)
        file.add_image(image)
        entry = {
            "image_id": image.number,
            "file_name": f"{image.stem}.png",
            "segments_info": segments_info(painted.segments),
        }
        file.add_annotation(json_line(entry))

    def finish(self) -> None:
        self._files.finish()
