"""Exit codes: how a command tells a scheduler what came of it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Lists the exit codes of all commands; `pipeline/README.md` says what to do after each."""

    DONE = 0
    NOT_SOUND = 1
    """Of verify and compact: a file of the table is damaged, or its rows break a rule."""
    WRONG_USAGE = 2
    DONE_WITH_ERRORS = 3
    BUDGET_EXCEEDED = 4
    TRY_AGAIN = 75
    STOPPED = 143
    """Of submit: somebody stopped the job on the cluster."""


class TryAgain(Exception):
    """Ends a command that cannot do its work now; the message is one line for the user."""
