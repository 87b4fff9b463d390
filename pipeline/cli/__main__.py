"""The `maskformer` command; `python -m pipeline.cli` is the same."""

import sys
from collections.abc import Sequence

from pipeline.cli.commands import COMMANDS
from pipeline.cli.completion import completion_script
from pipeline.cli.help import list_of_commands
from pipeline.cli.running import project_version, run_job, show
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.options import did_you_mean, option_name
from pipeline.runtime.settings import WrongUsage


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns its exit code."""
    words = list(sys.argv[1:] if words is None else words)
    first, rest = (words[0], words[1:]) if words else ("--help", [])
    try:
        if first in COMMANDS:
            return run_job(first, rest)
        if first in ("help", "-h") or option_name(first) in ("help", "help_all"):
            show(list_of_commands(project_version()))
        elif option_name(first) == "version":
            show(f"maskformer-pipeline {project_version()}")
        elif option_name(first.partition("=")[0]) == "completion":
            show(completion_script(first.partition("=")[2] or " ".join(rest) or "bash"))
        else:
            near = did_you_mean(first, list(COMMANDS))
            raise WrongUsage(f"there is no command {first}{near or '; see maskformer --help'}")
    except WrongUsage as error:
        print(f"maskformer: {error}", file=sys.stderr)
        return ExitCode.WRONG_USAGE
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
