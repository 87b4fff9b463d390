"""Storage faults: which kind an error is of, and whether asking again may help.

Knows the errors of botocore, aiohttp, s3fs, other fsspec file systems and of local disks, without
importing any of them: a process that reads local files needs none. `retries.py` acts on the
kinds.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any


class StorageFault(Exception):
    """The storage did not do its part, after retries. Says nothing about the file's content."""


class SourceChanged(Exception):
    """The object is not the one that was planned: its etag differs, or it is gone."""


class FaultKind(StrEnum):
    """What an error of storage calls for."""

    THROTTLED = "throttled"
    """The store wants fewer requests: ask again, after long pauses."""
    TRANSIENT = "transient"
    """It may pass: ask again, after short pauses."""
    EXPIRED = "expired"
    """Credentials are not known or no longer: ask again with new ones, where there are any."""
    DENIED = "denied"
    NO_SPACE = "no space"
    BAD_REQUEST = "bad request"
    """Asked for in a way that can never work."""
    NOT_FOUND = "not found"
    UNMET = "unmet condition"
    """If-Match, If-None-Match: an answer, no fault."""

    @property
    def may_pass(self) -> bool:
        return self in (FaultKind.THROTTLED, FaultKind.TRANSIENT)


def fault_kind(error: BaseException) -> FaultKind | None:
    """The kind of an error; None where it is none of storage but a mistake of ours.

    What is not known counts as transient: retries are bounded, a unit given up is not.
    """
    if isinstance(error, _MISTAKES):
        return None
    # What the server answered, wherever in the chain, tells more than what was made of it.
    for look in (_by_answer, _by_type_or_status):
        for each in _with_causes(error):
            if (kind := look(each)) is not None:
                return kind
    return FaultKind.TRANSIENT


def advice(kind: FaultKind, error: BaseException) -> str:
    """What to do about a fault that stays, for the end of its message."""
    numbers = {each.errno for each in _with_causes(error) if isinstance(each, OSError)}
    texts = " ".join(str(each) for each in _with_causes(error)).lower()
    codes = {_code(each) for each in _with_causes(error)}
    for happened, what in (
        ("RequestTimeTooSkewed" in codes, "set this machine's clock"),
        (errno.EMFILE in numbers, "raise the limit on open files (ulimit -n)"),
        (errno.EIO in numbers and codes == {""}, "the disk reports errors; see the system's log"),
        (errno.EROFS in numbers, "the disk is read-only; remount it or use another place"),
        ("certificate" in texts, "the server's certificate is not trusted; see AWS_CA_BUNDLE"),
        ("NoSuchBucket" in codes, "create the bucket or correct the location"),
        ("InvalidObjectState" in codes, "the object is archived; restore it"),
        ("SignatureDoesNotMatch" in codes, "the secret is not that of the access key"),
        (bool(codes & _REGION_CODES), "set --region to the bucket's"),
    ):
        if happened:
            return what
    return _ADVICE.get(kind, "")


def retry_after(error: BaseException) -> float:
    """Seconds for which the store asks to be left alone, 0 where it does not say."""
    for each in _with_causes(error):
        # botocore's in small letters; of aiohttp, letters are all one.
        of_s3 = _response(each).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        headers = of_s3 or getattr(each, "headers", None) or {}
        try:
            return max(0.0, float(headers["retry-after"]))
        except (KeyError, TypeError, ValueError):  # not said, or said as a date
            continue
    return 0.0


def described(error: BaseException, *, hidden: Iterable[str | None] = ()) -> str:
    """The error in one line that may be shown: short, and without anything that opens a door.

    Args:
        hidden: secrets, which could be part of what a server answers.
    """
    text = " ".join(str(error).split())
    text = text.replace(" (reached max retries: 0)", "")  # botocore's, which has nothing to try
    for secret in filter(None, hidden):
        text = text.replace(secret, "***")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return f"{type(error).__name__}: {text[:_LONGEST]}"


_LONGEST = 240

_MISTAKES = (TypeError, AttributeError, NameError, AssertionError, MemoryError)

_CODES = {
    FaultKind.THROTTLED: (
        "SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException ThrottledException "
        "RequestThrottled RequestThrottledException TooManyRequests TooManyRequestsException "
        "RequestLimitExceeded LimitExceededException BandwidthLimitExceeded ServiceUnavailable "
        "EC2ThrottledException PriorRequestNotComplete ProvisionedThroughputExceededException"
    ),
    FaultKind.TRANSIENT: (
        "InternalError InternalFailure RequestTimeout RequestTimeoutException RequestTimeTooSkewed "
        "BadDigest IncompleteBody XAmzContentSHA256Mismatch OperationAborted "
        "ConditionalRequestConflict BadGateway GatewayTimeout"
    ),
    FaultKind.EXPIRED: (
        "ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidToken RequestExpired "
        "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException"
    ),
    FaultKind.DENIED: (
        "AccessDenied AccessDeniedException AllAccessDisabled AccountProblem Forbidden "
        "SignatureDoesNotMatch InvalidObjectState InvalidPayer InvalidSecurity NotSignedUp "
        "UnauthorizedAccess"
    ),
    FaultKind.NO_SPACE: "QuotaExceeded InsufficientStorage XMinioStorageFull",
    FaultKind.NOT_FOUND: (
        "NoSuchKey NoSuchBucket NoSuchVersion NoSuchUpload NotFound KeyTooLongError"
    ),
    FaultKind.UNMET: "PreconditionFailed",
}
_KIND_BY_CODE = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}

_KIND_BY_STATUS = {
    401: FaultKind.DENIED,
    403: FaultKind.DENIED,
    404: FaultKind.NOT_FOUND,
    408: FaultKind.TRANSIENT,
    409: FaultKind.TRANSIENT,
    410: FaultKind.NOT_FOUND,
    412: FaultKind.UNMET,
    425: FaultKind.TRANSIENT,
    429: FaultKind.THROTTLED,
    501: FaultKind.BAD_REQUEST,
    503: FaultKind.THROTTLED,
    507: FaultKind.NO_SPACE,
}

_NAMES = {
    FaultKind.TRANSIENT: (
        # of botocore
        "HTTPClientError IncompleteReadError ChecksumError FlexibleChecksumError "
        "ResponseParserError EndpointConnectionError ConnectTimeoutError ProxyConnectionError "
        "ReadTimeoutError ConnectionClosedError ResponseStreamingError SSLError "
        # of aiohttp, asyncio, fsspec, http.client and urllib3
        "ClientPayloadError ClientConnectionError ServerDisconnectedError ServerTimeoutError "
        "FSTimeoutError TimeoutError IncompleteRead IncompleteReadError BadStatusLine "
        "ConnectionError gaierror JSONDecodeError UnicodeDecodeError"
    ),
    FaultKind.EXPIRED: (
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError TokenRetrievalError "
        "MetadataRetrievalError SSOError LoginError NoAuthTokenError"
    ),
    FaultKind.THROTTLED: "CapacityNotAvailableError",
    FaultKind.NOT_FOUND: "FileNotFoundError",
    FaultKind.UNMET: "FileExistsError",
    FaultKind.DENIED: "PermissionError",
    FaultKind.BAD_REQUEST: (
        "IsADirectoryError NotADirectoryError SSLCertVerificationError EOFError ValueError "
        # Any other of botocore says that it was set up or called wrongly.
        "BotoCoreError"
    ),
}
_KIND_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}

_ERRNOS = {
    FaultKind.NO_SPACE: (errno.ENOSPC, errno.EDQUOT),
    FaultKind.DENIED: (errno.EROFS, errno.EACCES, errno.EPERM),
    FaultKind.BAD_REQUEST: (
        errno.ENAMETOOLONG,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EFBIG,
    ),
    FaultKind.NOT_FOUND: (errno.ENOENT,),
}
_KIND_BY_ERRNO = {number: kind for kind, numbers in _ERRNOS.items() for number in numbers}

_ADVICE = {
    FaultKind.THROTTLED: "the store asks for fewer requests; start again later or on fewer cores",
    FaultKind.EXPIRED: (
        "set new credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, a "
        "profile or the nodes' role)"
    ),
    FaultKind.DENIED: "allow these credentials, or this user, to use that place",
    FaultKind.NO_SPACE: "make room there",
    FaultKind.BAD_REQUEST: "asking again would not help",
}

_SECRETS = (
    (re.compile(r"://[^/@\s]+@"), "://***@"),
    (
        re.compile(
            r"(?i)\b((?:X-(?:Amz|Goog)-)?(?:Signature|Credential|Security-Token)|AWSAccessKeyId|sig"
            r"|(?:aws_)?(?:access_key(?:_id)?|secret(?:_access_key)?|session_token)|AccountKey"
            r")([\"']?\s*[=:]\s*[\"']?)[^\s&\"',;]+"
        ),
        r"\1\2***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), "***"),
)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        yield each
        each = each.__cause__


def _response(error: BaseException) -> dict[str, Any]:
    """What botocore parsed of an answer; nothing where there was none."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _by_answer(error: BaseException) -> FaultKind | None:
    """By what the server answered: S3's code, else the status of HTTP."""
    if code := _code(error):
        if code in _KIND_BY_CODE:
            return _KIND_BY_CODE[code]
        if code.startswith("Throttl"):
            return FaultKind.THROTTLED
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return _by_status(code, status) or (FaultKind.BAD_REQUEST if code else None)


def _by_status(*statuses: Any) -> FaultKind | None:
    """By the first that is a status of HTTP."""
    for status in statuses:
        if str(status).isdecimal() and 300 <= int(status) < 600:
            usual = FaultKind.TRANSIENT if int(status) >= 500 else FaultKind.BAD_REQUEST
            return _KIND_BY_STATUS.get(int(status), usual)
    return None


def _by_type_or_status(error: BaseException) -> FaultKind | None:
    """By its number, else by the names of its class and of those above, the nearest first.

    The clients of other stores put the status on their errors. Names go first: aiohttp puts a 400
    on what it cannot parse.
    """
    if isinstance(error, OSError) and error.errno in _KIND_BY_ERRNO:
        return _KIND_BY_ERRNO[error.errno]
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FaultKind.BAD_REQUEST
    for each in type(error).__mro__:
        if each.__name__ in _KIND_BY_NAME:
            return _KIND_BY_NAME[each.__name__]
    return _by_status(*(getattr(error, name, None) for name in ("status_code", "status", "code")))
