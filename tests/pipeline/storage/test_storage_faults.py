"""Errors of storage are told apart by what they call for, however many libraries wrapped them."""

import errno
import http.client
import socket
import ssl

import aiohttp
import botocore.exceptions as of_botocore
import pytest
from aiobotocore.response import AioReadTimeoutError
from aiohttp.http_exceptions import ContentLengthError
from botocore.parsers import ResponseParserError
from fsspec.asyn import FSTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from s3fs.errors import ERROR_CODE_TO_EXCEPTION, translate_boto_error
from urllib3.exceptions import IncompleteRead

from pipeline.storage.faults import FaultKind, advice, fault_kind, redacted_message, retry_after

THROTTLED, TRANSIENT, EXPIRED = FaultKind.THROTTLED, FaultKind.TRANSIENT, FaultKind.EXPIRED
DENIED, NO_SPACE, BAD_REQUEST = FaultKind.DENIED, FaultKind.NO_SPACE, FaultKind.BAD_REQUEST
NOT_FOUND, UNMET = FaultKind.NOT_FOUND, FaultKind.UNMET
REQUEST = aiohttp.RequestInfo("http://host", "GET", {}, "http://host")  # type: ignore[arg-type]

CODES = [
    (THROTTLED, 503, "SlowDown Throttling ThrottlingException RequestLimitExceeded"),
    (THROTTLED, 400, "ThrottledByTheNextVersion TooManyRequestsException"),
    (THROTTLED, 503, "ServiceUnavailable 503 AnythingElse"),
    (THROTTLED, 429, "429 AnythingElse"),
    (TRANSIENT, 500, "InternalError 500 AnythingElse"),
    (TRANSIENT, 502, "502 AnythingElse"),
    (TRANSIENT, 400, "RequestTimeout BadDigest IncompleteBody XAmzContentSHA256Mismatch"),
    (TRANSIENT, 403, "RequestTimeTooSkewed"),
    (TRANSIENT, 409, "OperationAborted ConditionalRequestConflict 409"),
    (TRANSIENT, 200, "InternalError"),
    (EXPIRED, 400, "ExpiredToken InvalidToken TokenRefreshRequired"),
    (EXPIRED, 403, "InvalidAccessKeyId"),
    (DENIED, 403, "AccessDenied SignatureDoesNotMatch AllAccessDisabled 403 AnythingElse"),
    (NO_SPACE, 507, "XMinioStorageFull InsufficientStorage 507"),
    (BAD_REQUEST, 400, "InvalidBucketName AuthorizationHeaderMalformed 400 AnythingElse"),
    (BAD_REQUEST, 416, "InvalidRange 416"),
    (BAD_REQUEST, 501, "NotImplemented"),
    (NOT_FOUND, 404, "NoSuchKey NoSuchBucket 404 AnythingElse"),
    (UNMET, 412, "PreconditionFailed 412"),
]  # fmt: skip
BY_CODE = [(kind, status, code) for kind, status, codes in CODES for code in codes.split()]


def client_error(code: str, status: int, **headers: str) -> of_botocore.ClientError:
    """Makes an error as botocore raises it."""
    answer = {
        "Error": {"Code": code, "Message": "as it is"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return of_botocore.ClientError(answer, "GetObject")


@pytest.mark.parametrize(("kind", "status", "code"), BY_CODE)
def test_an_answer_of_s3_has_its_kind_as_it_came_and_as_s3fs_hands_it_on(kind, status, code):
    error = client_error(code, status)
    assert fault_kind(error) == kind
    assert fault_kind(translate_boto_error(client_error(code, status))) == kind


@given(code=st.sampled_from(sorted(ERROR_CODE_TO_EXCEPTION)), depth=st.integers(0, 4))
def test_what_an_error_is_wrapped_in_changes_nothing(code, depth):
    """Every code that s3fs knows, since each is one that S3 documents."""
    error: Exception = client_error(code, int(code) if code.isdecimal() else 400)
    kind = fault_kind(error)
    for level in range(depth):
        outer = [OSError, RuntimeError, PermissionError, ValueError][level]("wrapped")
        outer.__cause__ = error
        error = outer
    assert fault_kind(error) == kind


@given(status=st.integers(300, 599), code=st.text("abcXYZ", max_size=8))
def test_any_answer_has_a_kind_and_only_what_may_pass_is_asked_again(status, code):
    kind = fault_kind(client_error(code, status))
    assert kind is not None
    if status in (500, 502, 503, 504, 429):
        assert kind.may_pass
    if status in (400, 401, 403, 404, 412, 416, 501, 507):
        assert not kind.may_pass


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        # botocore, as it makes them
        (TRANSIENT, of_botocore.EndpointConnectionError(endpoint_url="http://host")),
        (TRANSIENT, of_botocore.ConnectTimeoutError(endpoint_url="http://host")),
        (TRANSIENT, of_botocore.ReadTimeoutError(endpoint_url="http://host")),
        (TRANSIENT, of_botocore.ConnectionClosedError(endpoint_url="http://host")),
        (TRANSIENT, of_botocore.ProxyConnectionError(proxy_url="http://host")),
        (TRANSIENT, of_botocore.HTTPClientError(error="odd")),
        (TRANSIENT, of_botocore.ResponseStreamingError(error="odd")),
        (TRANSIENT, of_botocore.IncompleteReadError(actual_bytes=1, expected_bytes=2)),
        (TRANSIENT, of_botocore.FlexibleChecksumError(error_msg="crc32")),
        (TRANSIENT, of_botocore.SSLError(endpoint_url="https://host", error="EOF")),
        (TRANSIENT, ResponseParserError("invalid XML received")),
        (THROTTLED, of_botocore.CapacityNotAvailableError()),
        (EXPIRED, of_botocore.NoCredentialsError()),
        (EXPIRED, of_botocore.CredentialRetrievalError(provider="iam", error_msg="away")),
        (EXPIRED, of_botocore.PartialCredentialsError(provider="env", cred_var="secret")),
        (EXPIRED, of_botocore.UnauthorizedSSOTokenError()),
        (EXPIRED, of_botocore.TokenRetrievalError(provider="sso", error_msg="away")),
        (BAD_REQUEST, of_botocore.ParamValidationError(report="Invalid bucket name")),
        (BAD_REQUEST, of_botocore.NoRegionError()),
        (BAD_REQUEST, of_botocore.ProfileNotFound(profile="nobody")),
        (
            BAD_REQUEST,
            of_botocore.SSLError(endpoint_url="https://host", error="CERTIFICATE_VERIFY_FAILED"),
        ),
        # aiohttp and its neighbours
        (TRANSIENT, aiohttp.ClientPayloadError("Response payload is not completed")),
        (TRANSIENT, aiohttp.ServerDisconnectedError()),
        (TRANSIENT, aiohttp.ServerTimeoutError()),
        (TRANSIENT, aiohttp.ClientOSError(errno.ECONNRESET, "reset")),
        (TRANSIENT, AioReadTimeoutError(endpoint_url="http://host", error="stalled")),
        (TRANSIENT, FSTimeoutError()),
        (TRANSIENT, IncompleteRead(1, 2)),
        (TRANSIENT, http.client.IncompleteRead(b"1")),
        (TRANSIENT, http.client.BadStatusLine("")),
        (TRANSIENT, ssl.SSLEOFError()),
        (TRANSIENT, socket.gaierror(socket.EAI_AGAIN, "try again")),
        (BAD_REQUEST, ssl.SSLCertVerificationError("certificate has expired")),
        # what fsspec's clients of other stores raise
        (TRANSIENT, aiohttp.ClientResponseError(REQUEST, (), status=502)),
        (THROTTLED, aiohttp.ClientResponseError(REQUEST, (), status=429)),
        (DENIED, aiohttp.ClientResponseError(REQUEST, (), status=403)),
        # Python and the disk
        (TRANSIENT, ConnectionResetError()),
        (TRANSIENT, BrokenPipeError()),
        (TRANSIENT, TimeoutError()),
        (TRANSIENT, OSError("nobody knows")),
        (TRANSIENT, RuntimeError("nobody knows")),
        (TRANSIENT, OSError(errno.EIO, "Input/output error")),
        (TRANSIENT, OSError(errno.EMFILE, "Too many open files")),
        (TRANSIENT, OSError(errno.ESTALE, "Stale file handle")),
        (NO_SPACE, OSError(errno.ENOSPC, "No space left on device")),
        (NO_SPACE, OSError(errno.EDQUOT, "Disk quota exceeded")),
        (DENIED, OSError(errno.EROFS, "Read-only file system")),
        (DENIED, OSError(errno.EACCES, "Permission denied")),
        (DENIED, PermissionError("Access Denied")),
        (NOT_FOUND, FileNotFoundError("a")),
        (UNMET, FileExistsError("a")),
        (BAD_REQUEST, IsADirectoryError(errno.EISDIR, "a")),
        (NOT_FOUND, OSError(errno.ENAMETOOLONG, "File name too long")),
        (BAD_REQUEST, ValueError("no such option")),
        (None, TypeError("unexpected keyword")),
        (None, AssertionError()),
        (None, MemoryError()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_errors_that_no_server_answered_have_a_kind_too(kind, error):
    assert fault_kind(error) == kind


def test_a_body_that_ended_early_is_no_bad_request():
    """Raises as aiohttp does: from an error of its parser with a status of 400, as if answered."""
    error = aiohttp.ClientPayloadError("Response payload is not completed")
    error.__cause__ = ContentLengthError("received 50000 of 100000 bytes")
    assert error.__cause__.code == 400
    assert fault_kind(error) == TRANSIENT


def test_botocore_has_no_error_that_would_be_taken_for_a_mistake_of_ours():
    kinds = {
        each: fault_kind(each.__new__(each))
        for each in vars(of_botocore).values()
        if isinstance(each, type) and issubclass(each, of_botocore.BotoCoreError)
    }
    assert len(kinds) > 80
    assert {each.__name__ for each, kind in kinds.items() if kind is None} <= {"StubAssertionError"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (client_error("ExpiredToken", 400), "AWS_SESSION_TOKEN"),
        (client_error("InvalidAccessKeyId", 403), "AWS_ACCESS_KEY_ID"),
        (client_error("AccessDenied", 403), "allow these credentials"),
        (client_error("SignatureDoesNotMatch", 403), "secret is not that of the access key"),
        (client_error("RequestTimeTooSkewed", 403), "clock"),
        (client_error("AuthorizationHeaderMalformed", 400), "--region"),
        (client_error("SlowDown", 503), "fewer requests"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (OSError(errno.EIO, "Input/output error"), "disk reports errors"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "AWS_CA_BUNDLE"),
    ],
    ids=str,
)
def test_a_fault_that_stays_says_what_to_do(error, words):
    kind = fault_kind(error)
    assert kind is not None
    assert words in advice(kind, error)


def test_a_store_may_say_how_long_it_wants_to_be_left_alone():
    assert retry_after(client_error("SlowDown", 503, **{"retry-after": "7"})) == 7
    said_as_a_date = {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after(client_error("SlowDown", 503, **said_as_a_date)) == 0
    assert retry_after(client_error("SlowDown", 503)) == 0
    assert retry_after(OSError()) == 0


@pytest.mark.parametrize(
    "text",
    [
        "http://host/a?X-Amz-Credential=hunter2/20260101&X-Amz-Signature=hunter2&X-Amz-Date=1",
        "https://someone:hunter2@host/bucket",
        "403 for https://account.blob/c?sv=1&sig=hunter2",
        "Authorization: AWS4-HMAC-SHA256 Credential=hunter2/20260101, Signature=hunter2",
        "{'aws_access_key_id': 'hunter2', 'aws_secret_access_key': 'hunter2'}",
        "aws_session_token=hunter2",
        "AccountKey=hunter2;EndpointSuffix=core",
        "the key hunter2-as-given is not known",
    ],
)
def test_no_door_opens_with_what_an_error_shows(text):
    shown = redacted_message(OSError(text), hidden=(None, "", "hunter2-as-given"))
    assert "hunter2" not in shown
    assert shown.startswith("OSError: ")


@given(st.text(max_size=2000))
def test_an_error_is_one_short_line(text):
    shown = redacted_message(OSError(text))
    assert "\n" not in shown
    assert len(shown) < 300
