"""Exit codes: how a command tells a scheduler what came of it."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Lists the exit codes that all commands share."""

    DONE = 0
    WRONG_USAGE = 2
    DONE_WITH_ERRORS = 3
    BUDGET_EXCEEDED = 4
    TRY_AGAIN = 75


class TryAgain(Exception):
    """Ends a command that cannot do its work now; the message is one line for the user."""
