"""Child processes of this process: each runs a module, and ends with its parent."""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from multiprocessing.connection import Pipe


class ChildProcess:
    """A child and the connection to it.

    The module gets two numbers of file descriptors as its first words: its end of the connection,
    and what `end_with_parent` takes. It must end when `recv` raises EOFError.
    """

    def __init__(
        self, module: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the child, which finds all modules that this process finds."""
        path = os.pathsep.join(filter(None, sys.path))
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        descriptors = [theirs.fileno(), lifeline]
        with theirs, os.fdopen(lifeline):
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, descriptors), *words],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stderr=self._errors,
                env={**os.environ, **(environment or {}), "PYTHONPATH": path},
                process_group=0,  # Ctrl-C reaches the parent alone, which ends this process
            )

    def last_error(self) -> str:
        """Returns the last line that the child wrote to stderr."""
        self._errors.seek(0)
        return (self._errors.read().decode(errors="replace").strip().splitlines() or [""])[-1]

    def end(self) -> None:
        """Ends the child at once, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        os.close(self._lifeline)
        self._errors.close()


def end_with_parent(lifeline: int) -> None:
    """Ends this process, in the middle of its work, once its parent has ended."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
