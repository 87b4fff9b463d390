"""The command `review` as people run it: a process that can be killed and started again."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.review_page.settings import TOKEN_VARIABLE

TOKEN = "a-token-for-tests-0123456789"
ROOT = Path(__file__).parents[3]


class PageServer:
    """Serves a table at an address that stays the same over restarts."""

    def __init__(
        self, table: str, *, port: int, environment: Mapping[str, str] | None = None, **options: str
    ) -> None:
        self._environment = environment or {}
        self._arguments = ["review", table, "--no_open", "--port", str(port)]
        for name, value in options.items():
            self._arguments += [f"--{name}", value]
        self.address = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[str] | None = None

    @property
    def opening_address(self) -> str:
        return f"{self.address}/?token={TOKEN}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *self._arguments],
            cwd=ROOT, env={**os.environ, **self._environment, TOKEN_VARIABLE: TOKEN},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert self.address in said, said

    def kill(self) -> None:
        """Ends the process as a crash would: it does nothing any more."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(timeout=30) is not None
