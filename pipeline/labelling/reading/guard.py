"""Decodes images that may crash or hang their decoder in a child process, one at a time.

Units that lost a worker are read this way: the image that crashes the child is known, and becomes a
row with an error.
"""

import contextlib
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.reading import EncodedImage
from pipeline.labelling.reading.limits import memory_limit, time_limit
from pipeline.runtime.child_process import ChildProcess, end_with_parent

_START_SECONDS = 120

DecodeImage = Callable[[EncodedImage], Any]


class Guard:
    """Calls `decode` on images in a child process, and starts another when that one ends."""

    def __init__(self, decode: DecodeImage, *, seconds: float, memory_bytes: int) -> None:
        """Takes a function that can be pickled, and the limits of one image."""
        self._decode, self._seconds, self._memory_bytes = decode, seconds, memory_bytes
        self._child: _Child | None = None
        self._is_ending = threading.Lock()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends the child; another thread whose image it has gets an error."""
        self._end_child()

    def __call__(self, image: EncodedImage) -> Any:
        """Returns the result of `decode`.

        Raises:
            ImageError: the image crashed the child (DecoderCrashed), took too long (DecoderHung),
                or more memory than there is (OutOfMemory).
            ChildProcessError: the child could not be started.
        """
        if self._child is None:
            self._child = _Child(
                self._decode, seconds=self._seconds, memory_bytes=self._memory_bytes
            )
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
        with self._is_ending:
            child, self._child = self._child, None
        if child is not None:
            child.end()


def _death(status: int, *, image: EncodedImage) -> ImageError:
    if status == -signal.SIGKILL:
        message = f"{image.name}: the process that decoded it was killed, probably out of memory"
        return ImageError("OutOfMemory", message)
    how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return ImageError(
        "DecoderCrashed", f"{image.name}: it ended the process that decoded it: {how}"
    )


class _Child(ChildProcess):
    """The child process, ready to decode."""

    def __init__(self, decode: DecodeImage, *, seconds: float, memory_bytes: int) -> None:
        super().__init__(__name__)
        try:
            self.connection.send_bytes(pickle.dumps((decode, seconds, memory_bytes)))
            if not self.connection.poll(_START_SECONDS):
                raise TimeoutError(f"it is not ready after {_START_SECONDS} s")
            self.connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise ChildProcessError(f"the process that decodes did not start: {error!r}") from error


def _serve(connection: Connection) -> None:
    decode, seconds, memory_bytes = pickle.loads(connection.recv_bytes())
    connection.send("ready")
    with memory_limit(memory_bytes):
        while True:
            image = connection.recv()
            with time_limit(2 * seconds):  # the parent's own limit fails if the parent has ended
                answer = decode(image)
            connection.send(answer)


if __name__ == "__main__":
    # The parent closes the connection when it is done, or has ended: nobody is left to tell.
    end_with_parent(int(sys.argv[2]))
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(Connection(int(sys.argv[1])))
