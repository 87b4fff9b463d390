"""What every configuration has: fields in transformers' names, and the way to and from JSON."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from maskformer.hub import CONFIG_NAME, HubOptions, Pushable, resolve_folder

_SHOWN = 5

Config = TypeVar("Config", bound="PretrainedConfig")


@dataclass(init=False)
class PretrainedConfig(Pushable):
    """The fields that every configuration has, and the way to and from JSON.

    Keyword arguments only. `num_labels` is no field: it is the length of `id2label`, and setting it
    names the labels anew where the number differs.
    """

    model_type: ClassVar[str] = ""
    not_in_transformers: ClassVar[tuple[str, ...]] = ()
    """Fields of ours alone: written only where they differ from the default."""

    architectures: Sequence[str] | None = None
    transformers_version: str | None = None
    output_hidden_states: bool | None = False
    output_attentions: bool | None = False
    return_dict: bool | None = True
    dtype: Any = None
    """The name of the weights' type, such as "float32", where known; a torch dtype is taken too."""
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    id2label: dict[int, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: str | None = None

    def __init__(self, **values: Any) -> None:
        num_labels = values.pop("num_labels", None)
        for field in fields(self):
            setattr(self, field.name, values.pop(field.name, deepcopy(field.default)))
        self._settle(values)
        if values:
            raise TypeError(
                f"{type(self).__name__} has no field {', '.join(map(repr, values))}; "
                f"its fields are {', '.join(sorted(field.name for field in fields(self)))}"
            )
        self._tie_labels(num_labels)
        if self.dtype is not None:
            self.dtype = str(self.dtype).removeprefix("torch.")

    def _settle(self, rest: dict[str, Any]) -> None:
        """Makes derived and nested values; takes what it understands out of `rest`."""

    def _tie_labels(self, num_labels: int | None) -> None:
        if self.id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
            return
        self.id2label = {int(index): str(label) for index, label in self.id2label.items()}
        if num_labels is not None and num_labels != len(self.id2label):
            raise ValueError(
                f"num_labels must be the length of id2label, got {num_labels} for "
                f"{len(self.id2label)} labels; give one of the two"
            )
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        self.label2id = {str(label): int(index) for label, index in self.label2id.items()}

    @property
    def num_labels(self) -> int:
        return len(self.id2label or {})

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        if self.id2label is None or num_labels != len(self.id2label):
            self.id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
            self.label2id = {label: index for index, label in self.id2label.items()}
            self._forget_labels()

    def _forget_labels(self) -> None:
        """Drops what was said of labels that are named anew."""

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any], **overrides: Any) -> Config:
        """Reads what we know and passes over the rest: published files carry keys of many versions.

        `overrides` must be fields, and win.
        """
        if "num_labels" in overrides:
            values = {k: v for k, v in values.items() if k not in ("id2label", "label2id")}
        elif "id2label" in overrides:
            values = {k: v for k, v in values.items() if k != "label2id"}
        known = {"num_labels", *cls._read_besides_fields(), *(field.name for field in fields(cls))}
        kept = {name: value for name, value in values.items() if name in known}
        if kept.get("id2label") is not None:
            kept.pop("num_labels", None)
        if kept.get("dtype") is None and values.get("torch_dtype") is not None:
            kept["dtype"] = values["torch_dtype"]
        return cls(**{**kept, **overrides})

    @classmethod
    def _read_besides_fields(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def from_json_file(cls: type[Config], path: str | Path, **overrides: Any) -> Config:
        path = Path(path)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} must be a readable JSON file: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} must hold a JSON object, got a {type(values).__name__}")
        try:
            return cls.from_dict(values, **overrides)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        except (AttributeError, LookupError, ArithmeticError) as error:
            # A value of a kind that the code below did not think of, as a list for id2label.
            raise ValueError(f"{path} holds a value of the wrong kind: {error!r}") from error

    @classmethod
    def from_pretrained(
        cls: type[Config], pretrained_model_name_or_path: str | Path, **overrides: Any
    ) -> Config:
        """The configuration of a folder, or of a model on the hub, which is fetched.

        `overrides` replace fields; those of `hub.HubOptions` say how it is fetched.
        """
        options, overrides = HubOptions.split(overrides)
        folder = Path(resolve_folder(str(pretrained_model_name_or_path), options))
        return cls.from_json_file(folder / CONFIG_NAME, **overrides)

    def to_dict(self) -> dict[str, Any]:
        values = {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)
            if field.name not in self.not_in_transformers
            or getattr(self, field.name) != field.default
        }
        return {**values, "model_type": self.model_type}

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json_string(), encoding="utf-8")

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, **push_options: Any
    ) -> None:
        """Writes config.json; `push_options` are those of `push_to_hub`, `repo_id` among them."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(save_directory) / CONFIG_NAME)
        self._finish_saving(save_directory, push_to_hub=push_to_hub, push_options=push_options)


def check_label_ids(id2label: Mapping[int, str]) -> None:
    """Raises ValueError where labels are not numbered from 0 on, as rows of the class head are.

    transformers reads such a configuration, and finds no name for the rows in the gaps.
    """
    rows = range(len(id2label))
    if unknown := sorted(id2label.keys() - set(rows)):
        unnamed = sorted(set(rows) - id2label.keys())
        raise ValueError(
            f"id2label must number its {len(rows)} labels from 0 to {len(rows) - 1}, one for each "
            f"row of the class head; got {', '.join(map(str, unknown[:_SHOWN]))} and no name for "
            f"{', '.join(map(str, unnamed[:_SHOWN]))}: number them anew in {CONFIG_NAME}"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, PretrainedConfig):
        return value.to_dict()
    if isinstance(value, tuple):
        return list(value)
    return deepcopy(value)
