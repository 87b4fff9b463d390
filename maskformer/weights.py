"""Model folders: which files hold a model, and whether they can be one, before torch starts.

Takes a folder or a file that `hub.py` found. `checkpoint.py` reads the tensors. The driver of a
job asks here before it starts any worker, and

    python -m maskformer.weights convert IN OUT

writes weights of any dialect in transformers' format.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskformer.checkpoints.files import stored_tensors
from maskformer.configuration import CONFIG_NAME, MaskFormerConfig, check_label_ids

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
SUFFIXES = (".safetensors", ".pkl", ".bin", ".pth", ".pt")
"""Of files that hold weights, whatever else their names are."""

_SPEAKER = "maskformer.weights: "


def check_folder(folder: str) -> None:
    """Raises ValueError, in one line, for a folder or a file that cannot be a model.

    Looks at configuration, names and sizes: it reads a few kilobytes, not the weights.
    """
    if not Path(folder).exists():
        raise ValueError(f"a model folder must exist, got {folder!r}")
    config = read_config(folder)
    try:
        check_label_ids(config.id2label or {})
    except ValueError as error:
        raise ValueError(f"{config_file(folder)}: {error}") from error
    for path in weight_files(folder):
        stored_tensors(path)


def check_shapes(folder: str) -> None:
    """Raises ValueError, in one line, where the weights are not those of the configuration.

    Only the model itself knows its shapes. It is built without memory and shown the shape of a
    photograph, in a process of its own: torch takes seconds to start and then stays.
    """
    checked = subprocess.run(
        [sys.executable, "-m", "maskformer.weights", "check", str(Path(folder).absolute())],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        lines = checked.stderr.strip().splitlines() or [f"checking {folder} failed"]
        raise ValueError(lines[-1].removeprefix(_SPEAKER))


def config_file(location: str) -> Path:
    """The configuration in a folder, or beside a file of weights."""
    place = Path(location)
    return (place.parent if place.is_file() else place) / CONFIG_NAME


def read_config(location: str, **overrides: Any) -> MaskFormerConfig:
    """The configuration of a folder or a file of weights, with some of its fields replaced."""
    path = config_file(location)
    if path.is_file():
        return MaskFormerConfig.from_json_file(path, **overrides)
    if Path(location).is_file():
        raise ValueError(
            f"{location} needs {CONFIG_NAME} beside it, or a configuration by itself (config)"
        )
    raise ValueError(f"a model folder must hold {CONFIG_NAME}, {location} does not")


def weight_files(location: str) -> list[Path]:
    """The files that hold the weights: safetensors before pickles, one file before many."""
    place = Path(location)
    if place.is_file():
        return [place]
    for name in (SAFETENSORS, PICKLE):
        whole, index = place / name, place / f"{name}.index.json"
        if whole.is_file():
            return [whole]
        if index.is_file():
            return _shards(index)
    others = [path for path in sorted(place.iterdir()) if path.suffix in SUFFIXES]
    if len(others) == 1:
        return others
    found = f"but {', '.join(path.name for path in others)}" if others else "nor any other"
    raise ValueError(
        f"a model folder must hold its weights as {SAFETENSORS} or {PICKLE}, their index, or one "
        f"other file; {location} has none of these, {found}"
    )


def _shards(index: Path) -> list[Path]:
    try:
        shards = {str(name) for name in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} must map weights to files (weight_map): {error!r}") from error
    paths = [index.parent / name for name in sorted(shards)]
    outside = [path.name for path in paths if path.parent != index.parent]
    missing = [path.name for path in paths if not path.is_file()]
    if outside or missing or not paths:
        wrong = outside or missing or ["no file at all"]
        raise ValueError(f"{index} must name files beside it, it names {', '.join(wrong)}")
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 wrong usage or weights that are no model, in one line."""
    given = _parser().parse_args(arguments)
    # Here, not above: only what is asked for here needs torch.
    from maskformer import conversion

    try:
        if given.what == "check":
            conversion.check(given.model)
        else:
            conversion.convert(
                given.source,
                given.folder,
                described=conversion.describe(zoo_name=given.name, config_file=given.config),
                dtype=given.dtype,
                allow_missing=given.allow_missing,
                allow_unexpected=given.allow_unexpected,
            )
    except (ValueError, OSError) as error:
        print(f"{_SPEAKER}{error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m maskformer.weights", description=__doc__)
    whats = parser.add_subparsers(dest="what", required=True)
    convert = whats.add_parser("convert", help="write weights of any dialect as transformers does")
    convert.add_argument("source", metavar="IN", help="folder, file of weights, or hub id")
    convert.add_argument("folder", metavar="OUT", help="folder to write; made where there is none")
    configs = convert.add_mutually_exclusive_group()
    configs.add_argument("--name", help="of the zoo's model that the weights are of")
    configs.add_argument("--config", help="config.json of the model, where none lies with IN")
    for option, what in (("missing", "that IN lacks"), ("unexpected", "of IN that are left out")):
        convert.add_argument(
            f"--allow_{option}", metavar="NAME", nargs="*", default=[], help=f"weights {what}"
        )
    convert.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16"],
        default="auto",
        help="of the weights that are written; auto: as they are",
    )
    check = whats.add_parser("check", help="compare names and shapes with the configuration")
    check.add_argument("model", metavar="IN", help="folder, file of weights, or hub id")
    return parser


if __name__ == "__main__":
    sys.exit(main())
