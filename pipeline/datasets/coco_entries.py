"""What the entries of a COCO JSON must be to each other: each there once, each id another's.

`coco_instances.py` and `coco_panoptic.py` ask this after the JSON has passed its schema.
"""

import json
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from pipeline.datasets.coco_json import CocoFile, Flag, Id, Path, is_set, path_name
from pipeline.datasets.target import LabelError, Labels

_SHOWN = 5


class Category(msgspec.Struct, frozen=True, gc=False):
    """A label."""

    id: Id
    name: str
    isthing: Flag = None


class Image(Protocol):
    """An image of the JSON."""

    @property
    def id(self) -> Id: ...

    @property
    def file_name(self) -> str: ...


SomeImage = TypeVar("SomeImage", bound=Image)


def images_by_id(file: CocoFile, images: Sequence[SomeImage]) -> dict[Id, SomeImage]:
    """The images that annotations are of.

    Raises:
        LabelError: two have one id, so that nobody can tell whose an annotation is.
    """
    for index, image in enumerate(images):
        if not image.file_name or "\0" in image.file_name:
            raise file.wrong(("images", index, "file_name"))
    refuse_twice(
        file,
        [("images", index, "id") for index in range(len(images))],
        [image.id for image in images],
        rule="must be an id of its own",
    )
    return {image.id: image for image in images}


def refuse_twice(
    file: CocoFile, paths: Sequence[Path], values: Sequence[Hashable], *, rule: str
) -> None:
    """Raises LabelError where two entries, by the paths to what names them, have one value."""
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
    """The error about an id that none of those known is."""
    what = {"image_id": "images", "category_id": "categories"}[str(path[-1])]
    alike = [other for other in known if str(other) == str(value)]
    return file.wrong(
        path,
        rule=f"must be the id of one of the {what}",
        way_out=f"there it is {json.dumps(alike[0])}; write both alike" if alike else "",
    )


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Labels, and which category is which."""

    labels: Labels
    ids: Mapping[Id, int]
    """Label ids by category id."""
    notes: tuple[str, ...]
    """What was left out, for people."""

    @classmethod
    def of(
        cls, file: CocoFile, categories: Sequence[Category], *, used: Collection[Id]
    ) -> "Categories":
        """Those of the JSON, in its order.

        Of categories with one name only those are kept that are used: some exporters write a first
        one that is called as the project, and so as its only label.

        Raises:
            LabelError: two have one id, or one name and are used both.
        """
        count = len(categories)
        refuse_twice(
            file,
            [("categories", index, "id") for index in range(count)],
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
            f"category {c.id!r} is left out: it is not used, and another is called {c.name!r} too"
            for c in left_out[:_SHOWN]
        ]
        return cls(
            labels=Labels(
                names=tuple(category.name for _, category in kept),
                # Instances have no `isthing`: all are things.
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
        """The label that a category is.

        Raises:
            LabelError: there is no such category.
        """
        label = self.ids.get(category_id)
        if label is None:
            raise unknown_id(file, path, category_id, known=self.ids)
        return label
