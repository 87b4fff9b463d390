"""Commands on weights, and the check of a folder that the driver of a job makes before any worker.

    python -m maskformer.weights convert IN OUT    # any dialect to transformers' format
    python -m maskformer.weights check IN

The driver must not load torch, so it runs the second command in a process of its own.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_SPEAKER = "maskformer.weights: "


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 wrong usage or weights that are no model, in one line."""
    given = _parser().parse_args(arguments)
    # Imported here because it loads torch, which `check_shapes` must not.
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
