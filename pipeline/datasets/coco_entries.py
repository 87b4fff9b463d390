"""Checks the entries of a COCO JSON against each other: unique ids and names, no dangling ids.

`coco_instances.py` and `coco_panoptic.py` call this after the JSON has passed its schema.
"""

import json
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from pipeline.datasets.coco_json import CocoFile, Flag, Id, Path, is_set, path_name
from pipeline.datasets.target import LabelError, Labels

_SHOWN = 5


class Category(msgspec.Struct, frozen=True, gc=False):
    """A label."""

    id: Id
    name: str
    isthing: Flag = None


class Image(msgspec.Struct, frozen=True, gc=False):
    """An image of the JSON."""

    id: Id
    file_name: str | None = None
    """None where the JSON gives a `coco_url` only; `images_by_id` fills it in."""


SomeImage = TypeVar("SomeImage", bound=Image)


def images_by_id(file: CocoFile, images: Sequence[SomeImage]) -> dict[Id, SomeImage]:
    """Returns the images by id, in order, each with a file name.

    Raises:
        LabelError: two images have one id, or an image has no name.
    """
    images = [_with_name(file, index, image) for index, image in enumerate(images)]
    refuse_twice(
        file,
        [("images", index, "id") for index in range(len(images))],
        [image.id for image in images],
        rule="must be an id of its own",
    )
    return {image.id: image for image in images}


def _with_name(file: CocoFile, index: int, image: SomeImage) -> SomeImage:
    """Returns the image with the last name of its `coco_url` where it has no `file_name`."""
    name = image.file_name
    if name is None:
        entry = file.entry(("images", index))
        url = entry.get("coco_url")
        if not isinstance(url, str):
            if "file_name" not in entry:
                raise file.wrong(("images", index), rule="must have file_name")
            raise file.wrong(("images", index, "file_name"))
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        image = msgspec.structs.replace(image, file_name=name)
    if not name or "\0" in name:
        raise file.wrong(("images", index, "file_name"))
    return image


def refuse_twice(
    file: CocoFile, paths: Sequence[Path], values: Sequence[Hashable], *, rule: str
) -> None:
    """Raises LabelError where two entries have one value; `paths` lead to the values."""
    first: dict[Hashable, Path] = {}
    for path, value in zip(paths, values, strict=True):
        before = first.setdefault(value, path)
        if before is not path:
            raise file.wrong(
                path,
                rule=rule,
                way_out=f"{path_name(before[:2])} ({file.owner(before)}) has the same",
            )


def unknown_id(file: CocoFile, path: Path, value: Id, *, known: Collection[Id]) -> LabelError:
    """Returns the error about an id that is none of those known."""
    what = {"image_id": "images", "category_id": "categories"}[str(path[-1])]
    alike = [other for other in known if str(other) == str(value)]
    return file.wrong(
        path,
        rule=f"must be the id of one of the {what}",
        way_out=f"there it is {json.dumps(alike[0])}; write both alike" if alike else "",
    )


@dataclass(frozen=True, kw_only=True)
class Categories:
    """The labels of a COCO JSON, and the label id of each category."""

    labels: Labels
    ids: Mapping[Id, int]
    """Label ids by category id."""
    notes: tuple[str, ...]
    """Lines for people on categories that are left out."""

    @classmethod
    def of(
        cls, file: CocoFile, categories: Sequence[Category], *, used: Collection[Id]
    ) -> "Categories":
        """Makes the labels of the JSON's categories, in its order.

        Of categories with the same name only used ones are kept: some exporters write a first one
        with the name of the project, which is also that of its only label.

        Raises:
            LabelError: two categories have one id, or two used ones have one name.
        """
        for index, category in enumerate(categories):
            if "\0" in category.name:
                raise file.wrong(("categories", index, "name"))
        refuse_twice(
            file,
            [("categories", index, "id") for index in range(len(categories))],
            [category.id for category in categories],
            rule="must be an id of its own",
        )
        of_name = Counter(category.name for category in categories)
        kept = [
            (index, category)
            for index, category in enumerate(categories)
            if of_name[category.name] == 1 or category.id in used
        ]
        refuse_twice(
            file,
            [("categories", index, "name") for index, _ in kept],
            [category.name for _, category in kept],
            rule="must be a name of its own, by which labels are told apart",
        )
        left_out = [c for c in categories if c.id not in {category.id for _, category in kept}]
        notes = [
            f"category {c.id!r} is left out: it is unused, and another is called {c.name!r} too"
            for c in left_out[:_SHOWN]
        ]
        return cls(
            labels=Labels(
                names=tuple(category.name for _, category in kept),
                # Categories of instances have no `isthing`: all are things.
                things=frozenset(
                    label
                    for label, (index, category) in enumerate(kept)
                    if category.isthing is None
                    or is_set(file, ("categories", index, "isthing"), category.isthing)
                ),
            ),
            ids={category.id: label for label, (_, category) in enumerate(kept)},
            notes=tuple(notes),
        )

    def label_id(self, file: CocoFile, path: Path, category_id: Id) -> int:
        """Returns the label id of a category.

        Raises:
            LabelError: there is no such category.
        """
        label = self.ids.get(category_id)
        if label is None:
            raise unknown_id(file, path, category_id, known=self.ids)
        return label
