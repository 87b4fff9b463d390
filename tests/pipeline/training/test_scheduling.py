"""What a run ends with when its workers do."""

import pytest
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from pipeline.labelled.target import LabelError
from pipeline.storage import StorageFault
from pipeline.training.scheduling import WorkerSettings, _as_ours


def failed(*errors: Exception) -> WorkerGroupError:
    failures = {rank: UserExceptionWithTraceback(e, "Traceback") for rank, e in enumerate(errors)}
    return WorkerGroupError("workers failed", failures)


def test_what_a_worker_raised_of_data_comes_before_what_the_others_saw_of_its_end():
    error = failed(RuntimeError("connection closed by peer"), LabelError("image a: no good"))
    assert isinstance(_as_ours(error), LabelError)
    assert str(_as_ours(error)) == "image a: no good"


def test_a_full_disk_stays_a_fault_of_storage():
    fault = _as_ours(failed(StorageFault("the checkpoint x cannot be written")))
    assert isinstance(fault, StorageFault)
    assert "cannot be written" in str(fault)


def test_what_is_no_fault_of_data_is_worth_trying_again():
    fault = _as_ours(failed(RuntimeError("out of memory")))
    assert isinstance(fault, StorageFault)
    assert str(fault).startswith("workers failed too often")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"loader_processes": -1}, "loader_processes must be at least 0"),
        ({"worker_cpus": 0.0}, "worker_cpus must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        WorkerSettings(**values)
