"""Images that end a process end another one, and are told apart."""

import dataclasses
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_until

from pipeline.corpora.decoding import ImageError
from pipeline.corpora.reading import EncodedImage
from pipeline.labelling.reading.guard import Guard
from pipeline.labelling.reading.limits import memory_limit, time_limit
from pipeline.runtime.child_process import ChildProcess


def encoded_image(data: bytes) -> EncodedImage:
    return EncodedImage(image_id="a", uri="/c/a.png", member=None, etag="e", data=data)


def measure_or_crash(image: EncodedImage) -> int:
    match image.data:
        case b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"exit":
            os._exit(3)
        case b"hang":
            time.sleep(1000)
        case b"memory":
            return len(bytearray(2**28))
    return os.getpid()


def touch_and_hang(image: EncodedImage) -> None:
    Path(image.uri).touch()
    time.sleep(1000)


@pytest.fixture
def guard():
    with Guard(measure_or_crash, seconds=3, memory_bytes=2**27) as guard:
        yield guard


@pytest.mark.parametrize(
    ("data", "error_class", "said"),
    [
        (b"crash", "DecoderCrashed", "SIGSEGV"),
        (b"exit", "DecoderCrashed", "exit code 3"),
        (b"killed", "OutOfMemory", "was killed"),
        (b"hang", "DecoderHung", "not decoded after 3 s"),
        (b"memory", "DecoderCrashed", "exit code 1"),
    ],
)
def test_what_ends_the_process_is_an_error_and_the_next_image_has_another(
    guard, data, error_class, said
):
    first = guard(encoded_image(b"good"))
    assert guard(encoded_image(b"good")) == first != os.getpid()
    with pytest.raises(ImageError, match=said) as caught:
        guard(encoded_image(data))
    assert caught.value.error_class == error_class
    assert caught.value.message.startswith("/c/a.png: ")
    assert guard(encoded_image(b"good")) not in (first, os.getpid())


def test_the_process_ends_with_the_guard():
    with Guard(measure_or_crash, seconds=60, memory_bytes=2**30) as guard:
        process = guard(encoded_image(b"good"))
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_the_process_ends_once_where_another_thread_waits_for_it(tmp_path, monkeypatch):
    """The page's server ends while pictures are made."""
    ends = []

    def slowly(child: ChildProcess) -> None:
        ends.append(child)
        child.process.kill()
        wait([waiting], timeout=5)  # it meets the end of the process meanwhile
        end(child)

    end = ChildProcess.end
    monkeypatch.setattr(ChildProcess, "end", slowly)
    with ThreadPoolExecutor() as pool:
        with Guard(touch_and_hang, seconds=60, memory_bytes=2**30) as guard:
            image = dataclasses.replace(encoded_image(b"hang"), uri=str(tmp_path / "begun"))
            waiting = pool.submit(guard, image)
            wait_until(lambda: Path(image.uri).exists(), what="the decoder's work")
        with pytest.raises(ImageError):
            waiting.result()
    assert len(ends) == 1


def test_a_process_that_cannot_be_started_is_no_fault_of_the_image(guard, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ChildProcessError, match="did not start"):
        guard(encoded_image(b"good"))


def test_memory_beyond_the_limit_is_refused_and_only_within_it():
    # More than a process keeps of what it has given back.
    with memory_limit(2**30), pytest.raises(MemoryError):
        np.empty(2**32, np.uint8)
    assert len(np.empty(2**32, np.uint8)) == 2**32


def test_time_beyond_the_limit_ends_the_process_whatever_holds_the_lock():
    process = os.fork()
    if not process:
        import ctypes

        with time_limit(0.2):
            ctypes.PyDLL(None).sleep(60)
        os._exit(0)
    began = time.monotonic()
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert time.monotonic() - began < 30


def test_time_within_the_limit_changes_nothing():
    with time_limit(0.2):
        pass
    time.sleep(0.4)
