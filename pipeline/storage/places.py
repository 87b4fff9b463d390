"""Places: how the location of an object becomes the name that a storage is asked for.

A location is an absolute path, or a URL. Nothing in a name is read as a language: what a listing
showed is asked for under that name, with `::`, `?versionId=`, `#`, `%2F`, `[` or a line break in
it. `storage.py` uses it for every request.

A table holds text, and a name on a disk may be any bytes. A path that is no UTF-8 is written as
`file://localhost/` with its bytes in per cent, which other programs open too, and which a path
never begins with.
"""

import os
import re
from urllib.parse import quote, unquote_to_bytes

LOCAL, S3, HTTP = ("file", "local"), ("s3", "s3a"), ("http", "https")
_BYTES_ON_DISK = "file://localhost/"
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTAINER_AT_ACCOUNT = ("abfs", "abfss", "az", "wasb", "wasbs")
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_NO_TEXT = re.compile("[\ud800-\udfff]")


def protocol(uri: str) -> str:
    """What stands before `://`, in small letters; `file` where there is no such thing."""
    found = _PROTOCOL.match(uri)
    return found[1].lower() if found else "file"


def is_complete(uri: str) -> bool:
    """Whether it says where it lies by itself: a URL or an absolute path."""
    return uri.startswith("/") or _PROTOCOL.match(uri) is not None


def absolute(uri: str) -> str:
    """The location as plans and tables name it; one that it gave stays what it is.

    Raises:
        ValueError: the URL carries credentials, which would end up in tables and logs.
    """
    if protocol(uri) in LOCAL:
        path = local_path(uri)
        return local_uri(os.path.abspath(os.path.expanduser(path)))
    if _carries_credentials(uri):
        raise ValueError(
            f"a location must not carry credentials, got one for {protocol(uri)}://; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if protocol(uri) in HTTP:
        # What is no UTF-8 goes to a server byte by byte, and so it is written.
        uri = _NO_TEXT.sub(lambda found: quote(_bytes(found[0])), uri)
        return uri if "?" in uri else uri.rstrip("/")
    # No store has a name that is no UTF-8; what is written in its place is not there either.
    uri = uri if _is_text(uri) else _bytes(uri).decode("utf-8", "backslashreplace")
    return uri.rstrip("/")


def local_path(uri: str) -> str:
    """The path of a location on a disk, as Python's own functions take it."""
    if uri.startswith(_BYTES_ON_DISK):
        return os.fsdecode(b"/" + unquote_to_bytes(uri[len(_BYTES_ON_DISK) :]))
    return _PROTOCOL.sub("", uri, count=1) if _PROTOCOL.match(uri) else uri


def local_uri(path: str) -> str:
    """The location of an absolute path."""
    if _is_text(path):
        return path
    name = _bytes(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _BYTES_ON_DISK + quote(name.removeprefix(b"/"))


def join(base: str, *names: str) -> str:
    """A location below another."""
    if base.startswith(_BYTES_ON_DISK):
        return local_uri("/".join([local_path(base).rstrip("/"), *names]))
    return "/".join([base.rstrip("/"), *names])


def below(uri: str, *, root: str) -> str:
    """The path relative to the root, as text; the whole location where it lies elsewhere.

    Bytes that are no UTF-8 stand in it as `\\xff`. Two names never give one: a name with such
    letters of its own has its backslash as `\\x5c`.
    """
    if uri.startswith(_BYTES_ON_DISK):
        path, folder = local_path(uri), f"{local_path(root).rstrip('/')}/"
        return _text(path.removeprefix(folder)) if path.startswith(folder) else uri
    name = uri.removeprefix(f"{root.rstrip('/')}/")
    return _text(name) if uri.startswith("/") and len(name) < len(uri) else name


def split_url(uri: str) -> tuple[str, str]:
    """A URL's protocol with the host, bucket or container, and all that follows it."""
    found = _PROTOCOL.match(uri)
    assert found is not None
    end = uri.find("/", found.end())
    return (uri, "") if end < 0 else (uri[:end], uri[end:])


def _carries_credentials(uri: str) -> bool:
    name = protocol(uri)
    host = split_url(uri)[0]
    if name in HTTP:
        host = re.split("[?#]", host)[0]
    user, at, _ = host.split("://", 1)[1].rpartition("@")
    return bool(at) and (":" in user or name not in _CONTAINER_AT_ACCOUNT)


def _text(name: str) -> str:
    if "\\x" in name:
        name = re.sub(r"\\(?=x[0-9a-f]{2})", lambda _: "\\x5c", name)
    return name if _is_text(name) else _bytes(name).decode("utf-8", "backslashreplace")


def _is_text(name: str) -> bool:
    return name.isascii() or _NO_TEXT.search(name) is None


def _bytes(name: str) -> bytes:
    # A half of a pair, as JSON can spell it, is in no name on a disk and in no key.
    name = _HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", name)
    return name.encode("utf-8", "surrogateescape")
