"""Which cards are left alone: those that fail at work that others can do, not those with poison."""

import pytest

from pipeline.labelling.failures.gpu_failures import Gpu, GpuFailures

A, B = (Gpu(node_id="n", index=index, node="127.0.0.1") for index in "01")


def failure_history(*events: str) -> GpuFailures:
    """A history in words: `A-x` card A fails at x, `A+x` it does x, `A-` it fails at its start."""
    failures = GpuFailures()
    failures.start_pass(is_isolated=False)
    for event in events:
        gpu, keys = {"A": A, "B": B}[event[0]], list(event[2:])
        if event[1] == "-":
            failures.add(gpu, keys=keys, error=f"CUDA error: {event}")
        else:
            failures.succeeded(keys, gpu=gpu)
    return failures


def cards_left_alone(failures: GpuFailures) -> str:
    return "".join("AB"[int(each.gpu.index)] for each in failures.left_alone())


@pytest.mark.parametrize(
    ("events", "left_alone"),
    [
        ((), ""),
        # of the card
        (("A-", "A-"), "A"),
        (("A-", "A+x"), ""),
        (("A-", "A+x", "A-"), "A"),
        (("A-x", "A-y"), "A"),
        (("A-x", "B+x", "A-y"), "A"),
        (("A-x", "A+x", "A+y", "A-z"), "A"),
        (("A-xy", "A-xy", "A-yz", "A-pq"), "A"),
        # of the work
        (("A-x", "A-x", "A-x", "A-x"), ""),
        (("A-x", "A+y", "A-z"), ""),
        (("A-xy", "A-xz", "A+y", "A+z"), ""),
        (("A-x", "A-x", "B-x", "B+y", "A-z"), ""),
        (("A-x", "A-y", "B-x", "B+z", "B-y", "B+w"), ""),
        # of several
        (("A-x", "A-y", "B-", "B-"), "AB"),
        (("A-x", "A-y", "B-x", "B-y"), "AB"),
    ],
)
def test_a_card_is_left_alone_after_two_failures_that_are_not_the_images(events, left_alone):
    assert cards_left_alone(failure_history(*events)) == left_alone


def test_a_report_has_the_number_of_failures_and_the_last_error():
    (found,) = failure_history("A-x", "A-x", "A+x").left_alone()
    assert found.to_dict() == {
        "node": "127.0.0.1",
        "gpu": "0",
        "uuid": None,
        "failures": 2,
        "error": "CUDA error: A-x",
    }


def test_a_pass_begins_without_suspicions_but_not_with_cards_that_were_left_alone():
    failures = failure_history("A-x", "A-y", "B-x")
    failures.start_pass(is_isolated=False)
    failures.add(B, keys="z", error="CUDA error")
    assert cards_left_alone(failures) == "A"
    failures.succeeded("w", gpu=B)
    assert cards_left_alone(failures) == "A"


def test_several_images_of_a_unit_may_end_processes_in_isolation():
    failures = GpuFailures()
    failures.start_pass(is_isolated=True)
    for image in "ppqq":
        failures.add(A, keys=image, error="CUDA error")
    assert cards_left_alone(failures) == ""
    failures.add(A, keys="r", error="CUDA error")
    assert cards_left_alone(failures) == "A"


def test_the_last_cards_get_another_chance_unless_it_is_proven():
    failures = failure_history("A-x", "A-y", "B-", "B-")
    failures.give_another_chance()
    assert cards_left_alone(failures) == "B"
    failures.start_pass(is_isolated=True)
    failures.add(A, keys="p", error="CUDA error")
    assert cards_left_alone(failures) == "B"


def test_images_that_failed_on_a_card_at_fault_are_not_blamed():
    failures = failure_history("A-x", "A-y", "B-p", "B+z")
    assert [failures.is_blamed(key) for key in "xypz"] == [True, True, False, False]
