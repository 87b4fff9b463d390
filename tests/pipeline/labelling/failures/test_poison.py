"""Who began what and did not end it; what that makes of an image, and of an error of a task."""

import pytest
import ray

from pipeline.labelling.failures.gpu_failures import Gpu
from pipeline.labelling.failures.poison import (
    LOST,
    MISTAKE,
    AttemptTracker,
    failure,
    is_of_the_cluster,
    quarantine,
)
from pipeline.storage import SourceChanged, StorageFault


def test_only_what_was_begun_twice_and_never_ended_is_suspect():
    times = iter(range(0, 1000, 10))
    tracker = AttemptTracker(clock=lambda: next(times))
    for key in [("u", 0), ("u", 1), ("u", 1), ("v", 7), ("v", 8), ("v", 8), "a block", "a block"]:
        assert tracker.may_begin([key], at_most=2)
    tracker.ended([("v", 8)])
    tracker.ended([("w", 0)])
    assert tracker.suspects() == {"u": {1: 10}}


def test_work_that_processes_ended_over_begins_only_so_often_in_a_pass():
    tracker = AttemptTracker()
    assert [tracker.may_begin(["a"], at_most=3) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [tracker.may_begin(["b"], at_most=1), tracker.may_begin(["a", "b"], at_most=4)] == [
        True,
        True,
    ]
    tracker.ended(["a"])
    assert tracker.may_begin(["a"], at_most=1)
    tracker.start_pass()
    assert tracker.may_begin(["a", "b"], at_most=1)


def test_an_image_that_is_quarantined_does_not_prove_that_the_card_failed():
    gpu = Gpu(node_id="n", index="0", node="127.0.0.1")
    tracker = AttemptTracker()
    for _ in range(2):
        assert tracker.may_begin([("u", 5)], at_most=2)
        tracker.gpu_failed(gpu, keys=[("u", 5)], error="CUDA error")
    assert set(tracker.suspects()["u"]) == {5}
    tracker.start_pass(is_isolated=True)
    tracker.ended([("u", 5)])  # its row passes through an actor without pixels
    assert not tracker.is_left_alone(gpu)
    tracker.ended([("u", 5)], gpu=gpu)
    assert tracker.is_left_alone(gpu)
    assert [each.gpu for each in tracker.gpus_left_alone()] == [gpu]


def test_what_came_again_only_after_the_time_limit_has_hung():
    quarantined = quarantine({"u": {1: 10.0, 2: 31.0}}, segment_seconds=30)
    classes = {position: error.error_class for position, error in quarantined["u"].items()}
    assert classes == {1: "SegmenterCrashed", 2: "SegmenterHung"}


def test_what_an_earlier_pass_quarantined_stays_quarantined():
    earlier = quarantine({"u": {1: 10.0}, "v": {0: 1.0}}, segment_seconds=30)
    quarantined = quarantine({"u": {2: 10.0}}, segment_seconds=30, earlier=earlier)
    assert {unit_id: set(positions) for unit_id, positions in quarantined.items()} == {
        "u": {1, 2},
        "v": {0},
    }


def of_a_task(cause: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("f", "Traceback ...", cause)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.WorkerCrashedError(), LOST),
        (ray.exceptions.ActorDiedError(), LOST),
        (ray.exceptions.OutOfMemoryError("node"), LOST),
        (of_a_task(MemoryError()), LOST),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), LOST),
        (of_a_task(ChildProcessError("did not start")), LOST),
        (of_a_task(StorageFault("away")), "fault"),
        (SourceChanged("another file"), "fault"),
        (of_a_task(KeyError("a name")), MISTAKE),
        (KeyError("a name"), MISTAKE),
    ],
)
def test_errors_of_tasks_become_rows_that_say_whose_fault_it_was(error, kind):
    assert failure(error)[0] == kind
    assert is_of_the_cluster(error) == (kind != MISTAKE)
    assert failure(error)[1]
