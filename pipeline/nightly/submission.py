"""Submits a job to a Ray cluster once, however often the same submission id is requested.

Ray refuses an id that it knows. This module then follows the known job, or submits another attempt:
the first attempt has the requested id, the next ones end in -2, -3 and so on.
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

_ASK_EVERY_SECONDS = 2.0
_MOST_ATTEMPTS = 100


class Client(Protocol):
    """The methods of Ray's `JobSubmissionClient` that are used here."""

    def submit_job(self, **options: Any) -> str: ...

    def get_job_info(self, job_id: str) -> Any: ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...


def submit_command(settings: Settings, *, command: Sequence[str]) -> int:
    """Submits the words of a command line; see `submit`."""
    return submit(command, settings=settings.of(SubmitSettings))


def submit(
    command: Sequence[str], *, settings: SubmitSettings, client: Client | None = None
) -> int:
    """Submits the command unless an attempt is active or done; follows it to its exit code.

    Returns 0 for a run that ended with 3 (done, some images failed): schedulers expect 0.

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
        _print(f"the cluster does not answer: {first[0][:300]}; run the same command again")
        return ExitCode.TRY_AGAIN
    _print(f"{submission_id} ended with {code}")
    return ExitCode.DONE if code == ExitCode.DONE_WITH_ERRORS else code


def _address(settings: SubmitSettings) -> str | None:
    return settings.address or os.environ.get("RAY_API_SERVER_ADDRESS")


def _attempt(command: Sequence[str], *, settings: SubmitSettings, client: Client) -> str:
    """Returns the id of the attempt to follow: the latest, or a new one if that ended with 75."""
    for number in range(1, _MOST_ATTEMPTS):
        submission_id = settings.submission_id + (f"-{number}" if number > 1 else "")
        info = _info(submission_id, client=client)
        if info is not None:
            if _code(info) == ExitCode.TRY_AGAIN:
                continue
            _print(f"{submission_id} was submitted before; showing its log")
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
            _print(f"{submission_id} was submitted by another process just now; showing its log")
        else:
            _print(f"submitted {submission_id}: {shlex.join(command)}")
        return submission_id
    raise WrongUsage(f"{settings.submission_id} was tried {_MOST_ATTEMPTS} times; use another id")


def _info(submission_id: str, *, client: Client) -> Any:
    """Returns Ray's information on a job; None if the cluster does not know the id."""
    try:
        return client.get_job_info(submission_id)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise


def _follow(submission_id: str, *, client: Client) -> int:
    """Prints the job's log until it ends, and returns its exit code."""

    async def print_log() -> None:
        async for text in client.tail_job_logs(submission_id):
            print(text, end="", flush=True)

    try:
        asyncio.run(print_log())
    except (OSError, RuntimeError, aiohttp.ClientError) as error:
        _print(f"lost the log ({type(error).__name__}); waiting for the job to end")
    while (code := _code(client.get_job_info(submission_id))) is None:
        time.sleep(_ASK_EVERY_SECONDS)
    return code


def _code(info: Any) -> int | None:
    """Returns the exit code of a job; None while it runs.

    A driver that was killed, or lost with its node, has no code or that of a signal: try again.
    """
    if info.status == JobStatus.STOPPED:
        return ExitCode.STOPPED
    if info.status == JobStatus.SUCCEEDED:
        return ExitCode.DONE
    if info.status != JobStatus.FAILED:
        return None
    code = info.driver_exit_code
    return ExitCode.TRY_AGAIN if code is None or not 0 < code < 128 else code


def _print(line: str) -> None:
    print(f"submit: {line}", file=sys.stderr, flush=True)
