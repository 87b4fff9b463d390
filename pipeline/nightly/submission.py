"""Submission: one job for one id on a Ray cluster, however often it is asked for.

Ray refuses an id that it knows; what becomes of the second submission is decided here. The id of
the first attempt is the one that was asked for, those of the next end in -2, -3 and so on.
"""

import asyncio
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import aiohttp
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.nightly.settings import SubmitSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage

_STOPPED = 143
_ASK_EVERY_SECONDS = 2.0
_MOST_ATTEMPTS = 100


class Client(Protocol):
    """What is used of Ray's `JobSubmissionClient`."""

    def submit_job(self, **options: Any) -> str: ...

    def get_job_info(self, job_id: str) -> Any: ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...


def submit_command(settings: Settings, *, command: Sequence[str]) -> int:
    """Submits the words of a command line; see `submit`."""
    return submit(command, settings=settings.of(SubmitSettings))


def submit(
    command: Sequence[str], *, settings: SubmitSettings, client: Client | None = None
) -> int:
    """Submits the command where no attempt is under way or done, and follows it; its exit code.

    A run that ended with 3 is done, which schedulers know by 0 alone.

    Raises:
        WrongUsage: there is no command.
    """
    if not command:
        raise WrongUsage("give the command after --, as -- jobs/label_nightly.py --config FILE")
    try:
        client = client or JobSubmissionClient(_address(settings))
        submission_id = _attempt(command, settings=settings, client=client)
        code = _follow(submission_id, client=client)
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        _say(f"the cluster does not answer: {first[0][:300]}; run the same command again")
        return ExitCode.TRY_AGAIN
    _say(f"{submission_id} ended with {code}")
    return ExitCode.DONE if code == ExitCode.DONE_WITH_ERRORS else code


def _address(settings: SubmitSettings) -> str | None:
    return settings.address or os.environ.get("RAY_API_SERVER_ADDRESS")


def _attempt(command: Sequence[str], *, settings: SubmitSettings, client: Client) -> str:
    """The id of the attempt to follow: the latest, or a new one where that is worth it."""
    for number in range(1, _MOST_ATTEMPTS):
        submission_id = settings.submission_id + (f"-{number}" if number > 1 else "")
        info = _info(submission_id, client=client)
        if info is not None:
            if _code(info) == ExitCode.TRY_AGAIN:
                continue
            _say(f"{submission_id} was submitted before; following it")
            return submission_id
        try:
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=submission_id,
                runtime_env={"working_dir": settings.working_dir} if settings.working_dir else {},
            )
        except RuntimeError:
            if _info(submission_id, client=client) is None:
                raise
            _say(f"{submission_id} was submitted by another just now; following it")
        else:
            _say(f"submitted {submission_id}: {shlex.join(command)}")
        return submission_id
    raise WrongUsage(f"{settings.submission_id} was tried {_MOST_ATTEMPTS} times; use another id")


def _info(submission_id: str, *, client: Client) -> Any:
    """What the cluster says of a job, None where it knows none of that id."""
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise


def _follow(submission_id: str, *, client: Client) -> int:
    """Prints the job's log until it is over; its exit code."""

    async def print_log() -> None:
        async for text in client.tail_job_logs(submission_id):
            print(text, end="", flush=True)

    try:
        asyncio.run(print_log())
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        _say(f"the log broke off ({type(error).__name__}); waiting for the end")
    while (code := _code(client.get_job_info(submission_id))) is None:
        time.sleep(_ASK_EVERY_SECONDS)
    return code


def _code(info: Any) -> int | None:
    """The exit code of a job, None while it goes on.

    A driver that was killed, or lost with its node, has none or a signal's: that is worth a try.
    """
    if info.status == JobStatus.STOPPED:
        return _STOPPED
    if info.status == JobStatus.SUCCEEDED:
        return ExitCode.DONE
    if info.status != JobStatus.FAILED:
        return None
    code = info.driver_exit_code
    return ExitCode.TRY_AGAIN if code is None or not 0 < code < 128 else code


def _say(line: str) -> None:
    print(f"submit: {line}", file=sys.stderr, flush=True)
