"""A child of the driver that reads units, or segments blocks, as `local_workers.py` asks.

    python -m pipeline.labelling.driving.local_child CONNECTION LIFELINE KIND LIBRARY ...

It loads its libraries before anybody asks for work, while the driver still plans. Requests come
as pickles, each with its answers before the next: `CheckModel`, `StartWork`, then tables.
"""

import contextlib
import pickle
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Literal

from pipeline.runtime.child_process import end_with_parent

Kind = Literal["reader", "segmenter"]

KINDS: tuple[Kind, ...] = ("segmenter", "reader")


@dataclass(frozen=True, kw_only=True)
class CheckModel:
    """Asks whether the weights of a folder are those of its configuration."""

    folder: str

    def __call__(self) -> None:
        from maskformer import check_model

        check_model(self.folder)


@dataclass(frozen=True, kw_only=True)
class StartWork:
    """Asks to be ready for the units, or blocks, of a pass."""

    job: Any
    """A `LabellingJob`; this file has no such name before it has loaded its libraries."""
    machines: Any
    isolation: Any
    has_deadline: bool

    def without_model(self) -> "StartWork":
        """Returns the request for a reader, which needs no model."""
        return replace(self, job=replace(self.job, model_files={}))

    def work(self, kind: Kind, connection: Connection) -> Callable[[Any], Iterable[Any]]:
        """Returns what turns a unit into blocks, or a block into receipts."""
        attempts = ParentObject("attempts", connection)
        if kind == "reader":
            return self._reader(attempts, connection)
        return self._segmenter(attempts)

    def _reader(self, attempts: "ParentObject", connection: Connection) -> Any:
        from pipeline.labelling.driving.workers import BoundedLoad

        admission = ParentObject("admission", connection) if self.has_deadline else None
        load = self.job.reader(self.machines, isolation=self.isolation, admission=admission)
        return BoundedLoad(load=load, attempts=attempts)

    def _segmenter(self, attempts: "ParentObject") -> Any:
        from pipeline.labelling.driving.workers import SegmenterActor

        actor = SegmenterActor(
            model=lambda: self.job.model_files,
            factory=self.job.segmenters,
            num_threads=self.machines.actor_threads,
            attempts=attempts,
            is_isolated=self.isolation is not None,
            is_done=self.job.table.is_done,
            finish=self.job.staging.__call__,
        )
        return lambda block: [actor(block)]


@dataclass(frozen=True)
class Answer:
    """An answer of the child: a result, the end of its results, an error, or a call of its own."""

    kind: Literal["result", "end", "error", "ask", "tell"]
    content: Any = None


@dataclass(frozen=True)
class ParentObject:
    """An object of the parent, which calls its methods for the child."""

    name: str
    connection: Connection

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self._send("ask", method, args, kwargs)
        return pickle.loads(self.connection.recv_bytes())

    def tell(self, method: str, *args: Any, **kwargs: Any) -> None:
        self._send("tell", method, args, kwargs)

    def _send(self, kind: Literal["ask", "tell"], *call: Any) -> None:
        self.connection.send(Answer(kind, (self.name, *call)))


def _serve(connection: Connection, kind: Kind) -> None:
    work: Callable[[Any], Iterable[Any]] | None = None
    while True:
        request = pickle.loads(connection.recv_bytes())
        try:
            if isinstance(request, StartWork):
                work = request.work(kind, connection)
            elif isinstance(request, CheckModel):
                request()
            else:
                assert work is not None
                for result in work(request):
                    connection.send(Answer("result", result))
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            connection.send(Answer("error", _sendable(error)))
        else:
            connection.send(Answer("end"))


def _sendable(error: Exception) -> Exception:
    """Returns the error, or its text where it is of a class that cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class may do anything there
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main(words: list[str]) -> None:
    """Serves one parent until it closes the connection."""
    connection, kind = Connection(int(words[0])), words[2]
    end_with_parent(int(words[1]))
    for library in words[3:]:
        import_module(library)
    # The parent closes the connection when it is done, or has ended: nobody is left to tell.
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, "reader" if kind == "reader" else "segmenter")


if __name__ == "__main__":
    # Under its own name, by which the parent's requests are pickled.
    import_module("pipeline.labelling.driving.local_child").main(sys.argv[1:])
