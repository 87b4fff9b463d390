"""The model of a run: its files, read once by the driver, and what the table must know of it.

Nothing here starts torch: a model that cannot be one is found out before any actor starts.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskformer import (
    MaskFormerConfig,
    MaskFormerImageProcessor,
    check_folder,
    resolve_folder,
)
from pipeline.corpora.reading import ReadSettings
from pipeline.labelling.settings import SegmentSettings
from pipeline.table import TableSpec

ModelFiles = Mapping[str, bytes]
"""The files of a model folder by name."""

_NEEDED = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "*.pkl")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model's files by name, and what they say."""

    folder: str
    files: ModelFiles
    labels: tuple[str, ...]
    processor: MaskFormerImageProcessor

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all files: the same weights under another name are the same model."""
        digest = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
        return digest.hexdigest()


def read_model(name_or_folder: str, *, resize_rule: str) -> ModelFolder:
    """The model of a folder, or of a name on the hub.

    Raises:
        ValueError: it is no model, in one line that says what is missing.
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
            "`python -m maskformer.weights convert` makes a folder of it"
        )
    check_folder(folder)
    files = {name: _read(folder, name) for name in _NEEDED}
    for pattern in _WEIGHTS:
        for path in sorted(Path(folder).glob(pattern)):
            files[path.name] = path.read_bytes()
        if files.keys() > set(_NEEDED):
            break  # safetensors before pickles: one format is enough
    config = MaskFormerConfig.from_pretrained(folder)
    return ModelFolder(
        folder=folder,
        files=files,
        labels=tuple(str(config.id2label[index]) for index in range(config.num_labels)),
        processor=_processor(folder, resize_rule=resize_rule),
    )


def table_spec(
    model: ModelFolder, *, segmenting: SegmentSettings, reading: ReadSettings
) -> TableSpec:
    """What the rows of a table depend on, besides the images.

    Raises:
        ValueError: `label_ids_to_fuse` names a label that the model does not have.
    """
    fused = segmenting.label_ids_to_fuse
    unknown = [label for label in fused or () if not 0 <= label < len(model.labels)]
    if unknown:
        raise ValueError(
            f"label_ids_to_fuse must be labels of the model, 0 to {len(model.labels) - 1}, "
            f"got {unknown}"
        )
    has_thresholds = segmenting.task != "semantic"
    thresholds = segmenting.resolved
    return TableSpec(
        model_fingerprint=model.fingerprint,
        task=segmenting.task,
        threshold=thresholds.threshold if has_thresholds else None,
        mask_threshold=thresholds.mask_threshold if has_thresholds else None,
        overlap_mask_area_threshold=(
            thresholds.overlap_mask_area_threshold if has_thresholds else None
        ),
        label_ids_to_fuse=tuple(sorted(set(fused or ())))
        if segmenting.task == "panoptic"
        else None,
        resize_rule=segmenting.resize_rule,
        precision=segmenting.precision,
        decode=reading.decode,
        labels=model.labels,
    )


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
