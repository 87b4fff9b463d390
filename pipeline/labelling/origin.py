"""Finds out where a model comes from: revision, licence and data set, as far as anything says so.

The zoo knows its own models. Others have a card, the README.md of their folder: the hub's front
matter, and the lines that our own export writes (`training/export.py`).
"""

import re
from pathlib import Path
from typing import Any

from maskformer import MODELS
from pipeline.runtime.versions import project_version
from pipeline.table.made_by import MadeBy

_CARD = "README.md"
_LONGEST = 300
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{7,64})(/|$)")
_LICENCE = re.compile(r"^- licence of these weights: (.+)$", re.MULTILINE)
_DATA = re.compile(r"^- data: (?:[\d,]+ images? of )?(.+)$", re.MULTILINE)
_FRONT = re.compile(r"\A---\n(.*?)\n---(\n|$)", re.DOTALL)


def model_origin(name_or_folder: str, *, folder: str) -> MadeBy:
    """Returns what is known of a model.

    Args:
        name_or_folder: as the user gave it.
        folder: where its files are on this machine.
    """
    given = name_or_folder.removeprefix("hf://").strip("/")
    is_here = Path(name_or_folder.removeprefix("file://")).exists()
    place = str(Path(folder).resolve()) if is_here else given
    said = _of_card(Path(folder, _CARD))
    for entry in () if is_here else MODELS.values():
        if given in (entry.name, entry.weights.hub_id):
            said = {"licence": entry.licence, "trained_on": entry.dataset.title}
    snapshot = _SNAPSHOT.search(str(folder))
    return MadeBy(
        model=place,
        revision=snapshot[1] if snapshot else None,
        licence=said.get("licence"),
        trained_on=said.get("trained_on"),
        code_version=project_version(),
    )


def _of_card(card: Path) -> dict[str, str]:
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    front = _front_matter(text)
    found = {
        "licence": _line(front.get("license_name") or front.get("license")),
        "trained_on": _line(front.get("datasets")),
    }
    for name, pattern in (("licence", _LICENCE), ("trained_on", _DATA)):
        if found[name] is None and (match := pattern.search(text)):
            found[name] = _line(match[1])
    return {name: value for name, value in found.items() if value is not None}


def _front_matter(text: str) -> dict[str, Any]:
    import yaml

    match = _FRONT.match(text.replace("\r\n", "\n"))
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _line(value: Any) -> str | None:
    """Returns a value of a card as one line; None where it says nothing."""
    if isinstance(value, list):
        value = ", ".join(str(each) for each in value)
    line = " ".join(str(value).split())[:_LONGEST] if value else ""
    return line or None
