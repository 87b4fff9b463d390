"""Names the model that made a table, for people and for licences.

`_table.json` and every file's metadata hold it. It is not compared: the fingerprint of the spec
tells whether a model is the same, wherever a copy of it lies.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FIELD = "made_by"
"""Its name in `_table.json` and in the metadata of files."""


@dataclass(frozen=True, kw_only=True)
class MadeBy:
    """The model and the code that a table was begun with; None where nothing says."""

    model: str | None = None
    """The place or name that the first run was given."""
    revision: str | None = None
    """The commit on the hub."""
    licence: str | None = None
    """Of the weights."""
    trained_on: str | None = None
    """The data set, as the model's card or the zoo names it."""
    code_version: str | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> "MadeBy | None":
        """Returns what a table says; of a later version only the fields that are known here."""
        if content is None:
            return None
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @property
    def text(self) -> str:
        """Returns a line for people."""
        parts = [self.model or "a model without a name"]
        parts += [f"revision {self.revision[:12]}"] if self.revision else []
        parts += [f"trained on {self.trained_on}"] if self.trained_on else []
        parts += [f"licence {self.licence}"] if self.licence else []
        return ", ".join(parts)
