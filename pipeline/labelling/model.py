"""Reads a run's model: its files, once, in the driver, and the facts that the table records.

Starts without torch, so that a folder without a model is refused before any actor starts.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from maskformer import (
    MaskFormerConfig,
    MaskFormerImageProcessor,
    check_folder,
    kept_graph,
    known_things,
    resolve_folder,
)
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.origin import model_origin
from pipeline.labelling.settings import Engine, SegmentSettings
from pipeline.table.made_by import MadeBy
from pipeline.table.store import SCHEMA_VERSION, TableSpec

ModelFiles = Mapping[str, bytes]
"""The files of a model folder by name."""

_CONFIG = "config.json"
_NEEDED = (_CONFIG, "preprocessor_config.json")
_SHOWN = 5
_STUFF, _NONE = "stuff", "none"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "*.pkl")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model's files by name, with its labels and image processor."""

    folder: str
    files: ModelFiles
    labels: tuple[str, ...]
    processor: MaskFormerImageProcessor
    things: frozenset[int] | None = None
    """The labels that are things, by the configuration or the zoo; None if neither says."""
    origin: MadeBy | None = None
    """Where it comes from, for people."""

    @property
    def fingerprint(self) -> str:
        """Returns the SHA-256 of all files, so that copies of a folder are the same model.

        `things` of config.json is left out: the table records the labels that it fuses.
        """
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            data = _without_things(data) if name == _CONFIG else data
            digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()

    @property
    def reduced_labels(self) -> tuple[str, ...] | None:
        """Returns the labels if 0 was void in the label maps of the training data, else None."""
        return self.labels if self.processor.do_reduce_labels else None

    @property
    def stuff(self) -> tuple[int, ...]:
        """Returns the labels that are known to be stuff."""
        every = range(len(self.labels))
        return tuple(
            label for label in every if self.things is not None and label not in self.things
        )


def read_model(name_or_folder: str, *, resize_rule: str) -> ModelFolder:
    """Reads the model of a folder, or of a name on the hub.

    Raises:
        ValueError: the folder holds no model; the message says what is missing.
    """
    is_remote = "://" in name_or_folder and not name_or_folder.startswith(("hf://", "file://"))
    if is_remote:
        raise ValueError(
            f"--model must be a folder or a hub id, got {name_or_folder}; copy the folder to the "
            "machine that starts the job: the workers get it from there"
        )
    folder = resolve_folder(name_or_folder.removeprefix("file://"))
    if Path(folder).is_file():
        raise ValueError(
            f"--model must be a folder or a hub id, got the file {folder}; "
            "`maskformer convert` makes a folder of it"
        )
    check_folder(folder)
    files = {name: _read(folder, name) for name in _NEEDED}
    for pattern in _WEIGHTS:
        for path in sorted(Path(folder).glob(pattern)):
            files[path.name] = path.read_bytes()
        if files.keys() > set(_NEEDED):
            break  # safetensors before pickles: one format is enough
    config = MaskFormerConfig.from_pretrained(folder)
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    things = known_things(labels, hub_id=name_or_folder.removeprefix("hf://").strip("/"))
    return ModelFolder(
        folder=folder,
        files=files,
        labels=labels,
        things=things if config.things is None else frozenset(config.things),
        processor=_processor(folder, resize_rule=resize_rule),
        origin=model_origin(name_or_folder, folder=folder),
    )


def actor_files(model: ModelFolder, *, segmenting: SegmentSettings) -> ModelFiles:
    """Returns the files that the actors need: the model's, or its exported graph in their place.

    A graph is exported at its first use; a line says so.

    Raises:
        ValueError: the model cannot be exported.
    """
    return _ACTOR_FILES[segmenting.engine](model)


def _files_for_torch(model: ModelFolder) -> ModelFiles:
    return model.files


def _files_for_onnx(model: ModelFolder) -> ModelFiles:
    graph = kept_graph(model.files, fingerprint=model.fingerprint, announce=_announce)
    return {name: model.files[name] for name in _NEEDED} | graph.by_name


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_ACTOR_FILES: Mapping[Engine, Callable[[ModelFolder], ModelFiles]] = {
    "torch": _files_for_torch,
    "onnx": _files_for_onnx,
}


def with_stuff(
    segmenting: SegmentSettings, *, model: ModelFolder, there: Mapping[str, Any] | None
) -> SegmentSettings:
    """Returns the settings with the ids of the labels that a panoptic table fuses.

    Without labels in the settings, an existing table keeps its labels, and a new one fuses the
    model's stuff.

    Args:
        there: the content of `_table.json`; None where there is no table yet.

    Raises:
        ValueError: the model has no label of a given name.
    """
    if segmenting.task != "panoptic":
        return segmenting
    given = segmenting.label_ids_to_fuse
    if given is not None:
        return replace(segmenting, label_ids_to_fuse=label_ids(given, model=model))
    is_same_model = there is not None and there.get("labels") == list(model.labels)
    fused = model.stuff
    if there is not None and is_same_model and there.get("task") == "panoptic":
        fused = tuple(there.get("label_ids_to_fuse") or ())
    return replace(segmenting, label_ids_to_fuse=fused)


def label_ids(names: Sequence[int | str], *, model: ModelFolder) -> tuple[int, ...]:
    """Returns the ids of labels that are given by name or id, or as `stuff` or `none`.

    Raises:
        ValueError: there is no such label, or nobody knows what is stuff.
    """
    if list(names) == [_NONE] and _NONE not in model.labels:
        return ()
    found: list[int] = []
    for name in names:
        if isinstance(name, int):
            found.append(name)
        elif name == _STUFF and _STUFF not in model.labels:
            found += _known_stuff(model)
        else:
            found += _ids_of(name, labels=model.labels)
    return tuple(dict.fromkeys(found))


def _known_stuff(model: ModelFolder) -> tuple[int, ...]:
    if model.things is None:
        raise ValueError(
            "label_ids_to_fuse: neither the model nor the zoo says which labels are stuff; give "
            f"their names, of {_some(model.labels)}"
        )
    return model.stuff


def _ids_of(name: str, *, labels: Sequence[str]) -> list[int]:
    ids = [label for label, known in enumerate(labels) if known == name]
    if not ids:
        near = get_close_matches(name, labels, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {_some(labels)}"
        raise ValueError(f"label_ids_to_fuse: the model has no label {name!r}; {hint}")
    return ids


def fused_lines(
    segmenting: SegmentSettings, *, model: ModelFolder, was_given: bool = False
) -> list[str]:
    """Returns a line for people where a table does not fuse the model's stuff, or none is known.

    Args:
        was_given: people said themselves what is to be fused.
    """
    if segmenting.task != "panoptic":
        return []
    fused = segmenting.fused_ids
    if model.things is None:
        if was_given or fused:
            return []
        return [
            "the model does not say which labels are stuff (not countable, as sky or road): every "
            "segment is written as a thing; name its stuff by --label_ids_to_fuse, as sky,road"
        ]
    if fused == {*model.stuff}:
        return []
    of_table, of_model = (
        _some([model.labels[label] for label in labels]) for labels in (sorted(fused), model.stuff)
    )
    return [
        f"stuff of this table is {of_table}; the model's is {of_model} "
        "(--label_ids_to_fuse; a table keeps what it was made with)"
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "no label"


def table_spec(
    model: ModelFolder,
    *,
    segmenting: SegmentSettings,
    reading: ReadSettings,
    there: Mapping[str, Any] | None = None,
) -> TableSpec:
    """Returns the settings that a table's rows depend on.

    Args:
        there: the content of `_table.json`, whose schema is continued; None for a new table.

    Raises:
        ValueError: `label_ids_to_fuse` names a label that the model does not have.
    """
    fused = segmenting.fused_ids
    unknown = [label for label in sorted(fused) if not 0 <= label < len(model.labels)]
    if unknown:
        raise ValueError(
            f"label_ids_to_fuse must be labels of the model, 0 to {len(model.labels) - 1}, "
            f"got {unknown}"
        )
    has_thresholds = segmenting.task != "semantic"
    thresholds = segmenting.resolved
    return TableSpec(
        schema_version=_schema_version(there),
        model_fingerprint=model.fingerprint,
        task=segmenting.task,
        threshold=thresholds.threshold if has_thresholds else None,
        mask_threshold=thresholds.mask_threshold if has_thresholds else None,
        overlap_mask_area_threshold=(
            thresholds.overlap_mask_area_threshold if has_thresholds else None
        ),
        label_ids_to_fuse=tuple(sorted(fused)) if segmenting.task == "panoptic" else None,
        resize_rule=segmenting.resize_rule,
        precision=segmenting.precision,
        decode=reading.decode,
        labels=model.labels,
        engine=segmenting.engine,
        made_by=model.origin,
    )


def _schema_version(there: Mapping[str, Any] | None) -> int:
    """Returns the schema of a table that can be continued, else that of new tables."""
    version = (there or {}).get("schema_version")
    if isinstance(version, int) and 1 <= version < SCHEMA_VERSION:
        return version
    return SCHEMA_VERSION


def _without_things(config: bytes) -> bytes:
    """Returns config.json without `things`, byte for byte as it was before it had them."""
    values = json.loads(config)
    if "things" not in values:
        return config
    del values["things"]
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _processor(folder: str, *, resize_rule: str) -> MaskFormerImageProcessor:
    try:
        return MaskFormerImageProcessor.from_pretrained(folder, resize_rule=resize_rule)
    except OSError as error:
        raise ValueError(str(error)) from error


def _read(folder: str, name: str) -> bytes:
    try:
        return Path(folder, name).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"a model folder must hold {name}, {folder} does not") from error
