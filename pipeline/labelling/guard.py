"""The guard: images that may end the process that decodes them, in a process that may be ended.

What a unit is read with when a worker died over it: an image at a time, so that the one that ends
the process is known, and becomes a row that says so.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.reading import EncodedImage
from pipeline.labelling.limits import memory_limit, time_limit

_START_SECONDS = 120

Work = Callable[[EncodedImage], Any]


class Guard:
    """Calls `work` on images in a process of its own, and starts another where that one ends."""

    def __init__(self, work: Work, *, seconds: float, memory_bytes: int) -> None:
        """`work` must pickle. The limits are those of one image."""
        self._work, self._seconds, self._memory_bytes = work, seconds, memory_bytes
        self._child: _Child | None = None

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end_child()

    def __call__(self, image: EncodedImage) -> Any:
        """What `work` gives.

        Raises:
            ImageError: the image ended the process (DecoderCrashed), was not done in time
                (DecoderHung), or took more memory than there is (OutOfMemory).
            ChildProcessError: there is no such process to be had.
        """
        if self._child is None:
            self._child = _Child(self._work, seconds=self._seconds, memory_bytes=self._memory_bytes)
        child = self._child
        try:
            child.connection.send(image)
            if not child.connection.poll(self._seconds):
                self._end_child()
                raise ImageError(
                    "DecoderHung",
                    f"{image.name}: it is not decoded after {self._seconds:g} s; raise "
                    "image_seconds to give it longer",
                )
            return child.connection.recv()
        except (EOFError, ConnectionError) as error:
            status = child.process.wait()
            self._end_child()
            raise _death(status, image=image) from error

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _death(status: int, *, image: EncodedImage) -> ImageError:
    if status == -signal.SIGKILL:
        message = f"{image.name}: the process that decoded it was killed, as for want of memory"
        return ImageError("OutOfMemory", message)
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return ImageError(
        "DecoderCrashed", f"{image.name}: it ended the process that decoded it: {how}"
    )


class _Child:
    """The other process, and the way to it."""

    def __init__(self, work: Work, *, seconds: float, memory_bytes: int) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            self.connection.send_bytes(pickle.dumps((work, seconds, memory_bytes)))
            if not self.connection.poll(_START_SECONDS):
                raise TimeoutError(f"it is not ready after {_START_SECONDS} s")
            self.connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            said = f"the process that decodes did not start: {error!r}"
            raise ChildProcessError(said) from error

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def _serve(connection: Connection) -> None:
    work, seconds, memory_bytes = pickle.loads(connection.recv_bytes())
    connection.send("ready")
    with memory_limit(memory_bytes):
        while True:
            try:
                image = connection.recv()
            except EOFError:  # who asked has no more, or is no more
                return
            with time_limit(2 * seconds):  # ends it where who asked ended first
                answer = work(image)
            connection.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
