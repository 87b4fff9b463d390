"""Storage faults: classifies errors by what they call for, and words their messages.

Knows the errors of botocore, aiohttp, s3fs, other fsspec file systems and of local disks, without
importing any of them: a process that reads local files needs none. `retries.py` acts on the kinds.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any


class StorageFault(Exception):
    """The storage failed, after retries. Says nothing about the file's content."""


class SourceChanged(Exception):
    """An object is not the planned one: its etag differs, or it is gone."""


class FaultKind(StrEnum):
    """The reaction that an error of storage calls for."""

    THROTTLED = "throttled"
    """The store wants fewer requests: retry, after long pauses."""
    TRANSIENT = "transient"
    """The fault may pass: retry, after short pauses."""
    EXPIRED = "expired"
    """Credentials are unknown or expired: retry with new ones, if there are any."""
    DENIED = "denied"
    NO_SPACE = "no space"
    BAD_REQUEST = "bad request"
    """The request can never work."""
    NOT_FOUND = "not found"
    UNMET = "unmet condition"
    """If-Match or If-None-Match did not hold: an answer, no fault."""

    @property
    def may_pass(self) -> bool:
        return self in (FaultKind.THROTTLED, FaultKind.TRANSIENT)


def fault_kind(error: BaseException) -> FaultKind | None:
    """Classifies an error; None for a mistake in our own code.

    Unknown errors count as transient: a few retries cost less than a unit that is given up.
    """
    if isinstance(error, _MISTAKES):
        return None
    # The server's answer, wherever in the chain, tells more than the exceptions made from it.
    for classify in (_by_answer, _by_type_or_status):
        for each in _with_causes(error):
            if (kind := classify(each)) is not None:
                return kind
    return FaultKind.TRANSIENT


def can_never_work(fault: BaseException) -> bool:
    """True if the same request would fail again, however often it is sent."""
    return any(fault_kind(each) is FaultKind.BAD_REQUEST for each in list(_with_causes(fault))[1:])


def advice(kind: FaultKind, error: BaseException) -> str:
    """Returns what to do about a fault that stays, for the end of its message."""
    numbers = {each.errno for each in _with_causes(error) if isinstance(each, OSError)}
    texts = " ".join(str(each) for each in _with_causes(error)).lower()
    codes = {_code(each) for each in _with_causes(error)}
    for applies, remedy in (
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
        if applies:
            return remedy
    return _ADVICE.get(kind, "")


def retry_after(error: BaseException) -> float:
    """Returns the seconds for which the store asks clients to wait, 0 where it does not say."""
    for each in _with_causes(error):
        # Keys of botocore are in lower case; those of aiohttp match in any case.
        of_s3 = _response(each).get("ResponseMetadata", {}).get("HTTPHeaders", {})
        headers = of_s3 or getattr(each, "headers", None) or {}
        try:
            return max(0.0, float(headers["retry-after"]))
        except (KeyError, TypeError, ValueError):  # absent, or a date
            continue
    return 0.0


def redacted_message(error: BaseException, *, hidden: Iterable[str | None] = ()) -> str:
    """Returns the error in one short line, without credentials.

    Args:
        hidden: secrets, which a server's answer could repeat.
    """
    text = " ".join(str(error).split())
    text = text.replace(" (reached max retries: 0)", "")  # botocore's: its own retries are off
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
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"
}  # fmt: skip

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
        "IsADirectoryError SSLCertVerificationError EOFError ValueError "
        # Any other error of botocore means that it was configured or called wrongly.
        "BotoCoreError"
    ),
}
_KIND_BY_NAME = {name: kind for kind, names in _NAMES.items() for name in names.split()}

_ERRNOS = {
    FaultKind.NO_SPACE: (errno.ENOSPC, errno.EDQUOT),
    FaultKind.DENIED: (errno.EROFS, errno.EACCES, errno.EPERM),
    FaultKind.BAD_REQUEST: (errno.EISDIR, errno.EFBIG),
    # A path through a file, a name that no file can have, links in a circle: no such file.
    FaultKind.NOT_FOUND: (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
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
    FaultKind.BAD_REQUEST: "asking again would not help; correct the location or the settings",
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
    """Yields the error, the one it was raised from, and so on."""
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in seen:
        seen.append(each)
        yield each
        each = each.__cause__


def _response(error: BaseException) -> dict[str, Any]:
    """Returns what botocore parsed of an answer; empty where there was none."""
    response = getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _by_answer(error: BaseException) -> FaultKind | None:
    """Classifies by the server's answer: S3's code, else the HTTP status."""
    if code := _code(error):
        if code in _KIND_BY_CODE:
            return _KIND_BY_CODE[code]
        if code.startswith("Throttl"):
            return FaultKind.THROTTLED
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return _by_status(code, status) or (FaultKind.BAD_REQUEST if code else None)


def _by_status(*statuses: Any) -> FaultKind | None:
    """Classifies by the first value that is an HTTP status."""
    for status in statuses:
        if str(status).isdecimal() and 300 <= int(status) < 600:
            usual = FaultKind.TRANSIENT if int(status) >= 500 else FaultKind.BAD_REQUEST
            return _KIND_BY_STATUS.get(int(status), usual)
    return None


def _by_type_or_status(error: BaseException) -> FaultKind | None:
    """Classifies by errno, else by the names of its class and base classes, else by HTTP status.

    Names go before the status: aiohttp puts a 400 on an answer that it cannot parse.
    """
    if isinstance(error, OSError) and error.errno in _KIND_BY_ERRNO:
        return _KIND_BY_ERRNO[error.errno]
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return FaultKind.BAD_REQUEST
    for each in type(error).__mro__:
        if each.__name__ in _KIND_BY_NAME:
            return _KIND_BY_NAME[each.__name__]
    return _by_status(*(getattr(error, name, None) for name in ("status_code", "status", "code")))
