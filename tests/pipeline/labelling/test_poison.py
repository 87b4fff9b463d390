"""Who began what and did not end it; what that makes of an image."""

import logging

import pytest
import ray

from pipeline.labelling.poison import Witness, condemn, deaths, ends_a_task_only
from pipeline.storage import StorageFault


def test_only_what_was_begun_twice_and_never_ended_is_suspect():
    times = iter(range(0, 1000, 10))
    witness = Witness(clock=lambda: next(times))
    for place in [("u", 0), ("u", 1), ("u", 1), ("v", 7), ("v", 8), ("v", 8)]:
        witness.begins(*place)
    witness.ended("v", 8)
    witness.ended("w", 0)
    assert witness.suspects() == {"u": {1: 10}}


def test_what_came_again_only_after_the_time_limit_has_hung():
    condemned = condemn({"u": {1: 10.0, 2: 31.0}}, segment_seconds=30)
    classes = {position: error.error_class for position, error in condemned["u"].items()}
    assert classes == {1: "SegmenterCrashed", 2: "SegmenterHung"}


def of_a_task(cause: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("f", "Traceback ...", cause)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ray.exceptions.WorkerCrashedError(), True),
        (ray.exceptions.ActorDiedError(), True),
        (ray.exceptions.OutOfMemoryError("node"), True),
        (of_a_task(StorageFault("away")), True),
        (of_a_task(MemoryError()), True),
        (of_a_task(ChildProcessError("did not start")), True),
        (of_a_task(KeyError("a name")), False),
        (KeyError("a name"), False),
    ],
)
def test_deaths_are_collected_and_mistakes_of_ours_end_the_run(error, expected):
    assert ends_a_task_only(error) == expected
    log = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    with deaths() as died:
        if expected:
            log.error("An exception was raised", exc_info=error)
        else:
            with pytest.raises(type(error)):
                log.error("An exception was raised", exc_info=error)
    assert died == ([error] if expected else [])
    assert log.filters == []
