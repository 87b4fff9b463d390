"""Finds COCO's JSON in a folder that a labelling tool exported.

CVAT writes `annotations/instances_default.json` with `images/default/`, Roboflow
`train/_annotations.coco.json` with the photographs beside it, FiftyOne `labels.json` with `data/`.
"""

import json
import re

from pipeline.corpora.corpus import kind_of
from pipeline.datasets.target import LabelError
from pipeline.storage import File, Storage, join

UNFINISHED = "_unfinished_export.json"
"""Name of the file in an export that is not whole yet."""

_NAMES = ("labels.json", "id2label.json")
# A folder with more has a JSON for each image, in formats of other tools.
_MOST_JSONS = 32
_HEAD_BYTES = 256
_WHOLE_BYTES = 2**20
_HEAD = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')


def refuse_unfinished(dataset: str, *, storage: Storage) -> None:
    """Raises LabelError for an export of this project that was stopped before its end."""
    mark = join(storage.absolute(dataset), UNFINISHED)
    if storage.file(mark) is not None:
        raise LabelError(f"{dataset} is not whole, as {mark} says; run the same export again")


def exported_json(dataset: str, *, storage: Storage) -> str | None:
    """Returns the URI of the one COCO JSON in a folder; None for data of another kind.

    Raises:
        LabelError: there are several, and which.
        StorageFault: the storage failed.
    """
    folder = storage.absolute(dataset)
    if folder.lower().endswith(".json") or "*" in folder or kind_of(folder) is not None:
        return None
    jsons = []
    for file in storage.files(folder):
        name = file.uri.removeprefix(f"{folder}/")
        is_hidden = name.startswith(("_", "."))
        if name == "_table.json" or (not is_hidden and kind_of(name) in ("tar", "parquet")):
            return None
        if name.lower().endswith(".json") and name.count("/") <= 1 and not name.startswith("."):
            jsons.append(file)
    if len(jsons) > _MOST_JSONS:
        return None
    found = [file.uri for file in jsons if _is_coco(file, storage=storage)]
    names_labels = {f"{folder}/{name}" for name in _NAMES} & {file.uri for file in jsons}
    if not found or names_labels - {*found}:
        return None
    if len(found) > 1:
        raise LabelError(
            f"{folder} holds {len(found)} COCO JSONs: {', '.join(found)}; name one of them by "
            "--dataset (and the others by --validation or in runs of their own)"
        )
    return found[0]


def _is_coco(file: File, *, storage: Storage) -> bool:
    """True if a JSON is COCO's: by its first key, and by its content up to 1 MiB."""
    head = storage.read(file.uri, etag=file.etag, stop=min(file.size, _HEAD_BYTES))
    if not _HEAD.match(head.removeprefix(b"\xef\xbb\xbf")):
        return False
    if file.size > _WHOLE_BYTES:
        return True
    try:
        content = json.loads(storage.read(file.uri, etag=file.etag))
    except ValueError:
        return True  # opening it raises the error about it
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()
