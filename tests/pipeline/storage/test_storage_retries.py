"""Storage is asked again as often and as late as the kind of fault calls for, and no more."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_storage_faults import client_error

import pipeline.storage.retries
from pipeline.storage.faults import StorageFault
from pipeline.storage.retries import RetryPolicy, retried, take_retries

PATIENCE = RetryPolicy(attempts=6, seconds=1000)


class WaitingClock:
    """Time that passes only by waiting, and for as long as an attempt is said to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WaitingClock:
    clock = WaitingClock()
    monkeypatch.setattr(pipeline.storage.retries, "time", clock)
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 1.0)
    take_retries()
    return clock


def raising_once(*errors: BaseException) -> Callable[[], str]:
    """Raises each error once, then gives a result."""
    left = list(errors)

    def action() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return action


def slow_down(**headers: str) -> BaseException:
    return client_error("SlowDown", 503, **headers)


def waits_of(
    clock: WaitingClock, error: BaseException, *, retry_policy: RetryPolicy = PATIENCE
) -> list[float]:
    with pytest.raises(StorageFault):
        retried(raising_once(*[error] * 100), what="read x", retry_policy=retry_policy)
    return clock.waits


def test_waits_between_attempts_grow(clock):
    for attempt, wait in enumerate(waits_of(clock, OSError("away"))):
        assert 0.5 * 2**attempt <= wait <= 1.5 * 2**attempt
    assert len(clock.waits) == PATIENCE.attempts - 1


@given(seed=st.integers(0, 10**6))
def test_throttled_requests_wait_longer_each_by_its_own_chance_and_within_bounds(seed):
    import random

    random.seed(seed)
    before = 0.0
    for attempt in range(1, 20):
        wait = pipeline.storage.retries._next_wait(
            pipeline.storage.retries.FaultKind.THROTTLED,
            attempt=attempt, before=before, asked_for=0.0,
        )  # fmt: skip
        first = pipeline.storage.retries._FIRST_WAIT_SECONDS
        assert 2 * first <= wait <= min(20.0, max(6 * first, 3 * before)) + 1e-9
        before = wait


def test_a_store_that_says_how_long_is_left_alone_for_as_long_but_not_for_ever(clock):
    assert min(waits_of(clock, slow_down(**{"retry-after": "30"}))) >= 30
    clock.waits.clear()
    assert max(waits_of(clock, slow_down(**{"retry-after": "86400"}))) <= 60


def test_no_attempt_begins_after_the_time_that_was_given(clock):
    retry_policy = RetryPolicy(attempts=1000, seconds=50)

    def action() -> None:
        clock.now += 7  # as a connection that stands still does
        raise TimeoutError

    with pytest.raises(StorageFault, match=r"attempts in \d+ s"):
        retried(action, what="read x", retry_policy=retry_policy)
    assert clock.now <= 50 + 7


@pytest.mark.parametrize(
    "error",
    [
        client_error("AccessDenied", 403),
        client_error("SignatureDoesNotMatch", 403),
        client_error("InvalidBucketName", 400),
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        OSError(30, "Read-only file system"),
        PermissionError("no"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_a_fault_at_once(clock, error):
    with pytest.raises(StorageFault, match=r"read x: .*; ") as caught:
        retried(raising_once(error), what="read x", retry_policy=PATIENCE)
    assert caught.value.__cause__ is error
    assert clock.waits == []
    assert take_retries() == []


def test_expired_credentials_are_renewed_once_and_then_a_fault_that_says_what_to_do(clock):
    expired = client_error("ExpiredToken", 400)
    renewed: list[int] = []
    options = {"what": "read x", "retry_policy": PATIENCE, "renew": lambda: renewed.append(1)}
    assert retried(raising_once(expired), **options) == "done"
    assert len(renewed) == 1
    with pytest.raises(StorageFault, match=r"ExpiredToken.*set new credentials"):
        retried(raising_once(expired, expired), **options)
    assert len(renewed) == 2
    assert clock.waits == []
    [told] = take_retries()
    assert (told.kind, told.count) == ("expired", 2)


def test_where_no_others_can_come_expired_credentials_are_a_fault_at_once(clock):
    with pytest.raises(StorageFault, match="set new credentials"):
        retried(
            raising_once(client_error("ExpiredToken", 400)), what="read x", retry_policy=PATIENCE
        )
    assert take_retries() == []


def test_an_absent_object_is_no_fault_and_a_mistake_of_ours_stays_one(clock):
    with pytest.raises(FileNotFoundError, match="read x"):
        retried(raising_once(client_error("NoSuchKey", 404)), what="read x", retry_policy=PATIENCE)
    with pytest.raises(TypeError, match="oops"):
        retried(raising_once(TypeError("oops")), what="read x", retry_policy=PATIENCE)
    assert clock.waits == []


def test_retries_are_counted_by_kind_until_someone_takes_the_counts(clock):
    errors = [OSError("a"), slow_down(), OSError("b")]
    assert retried(raising_once(*errors), what="read x", retry_policy=PATIENCE) == "done"
    told = {each.kind: each for each in take_retries()}
    assert {kind: each.count for kind, each in told.items()} == {"transient": 2, "throttled": 1}
    assert sum(each.seconds for each in told.values()) == pytest.approx(clock.now)
    assert take_retries() == []


def test_counts_of_many_threads_are_complete(monkeypatch):
    monkeypatch.setattr(pipeline.storage.retries, "_FIRST_WAIT_SECONDS", 0.0)
    take_retries()

    def work() -> None:
        for _ in range(50):
            retried(raising_once(OSError("a")), what="read x", retry_policy=PATIENCE)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: work(), range(8)))
    [told] = take_retries()
    assert told.count == 400
