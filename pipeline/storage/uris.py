"""URIs: converts between the locations in plans and tables and the names that a store knows.

A location is an absolute path or a URL. Nothing in a name is interpreted: an object is requested
under the name that a listing showed, with `::`, `?versionId=`, `#`, `%2F`, `[` or a line break in
it. `storage.py` uses this for every request.

A table holds text, but a name on a disk may be any bytes. A path that is not UTF-8 is written as
`file://localhost/` with percent-encoded bytes, which other programs open too, and with which no
path begins.
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
    """Returns the part before `://` in lower case, `file` where there is none."""
    found = _PROTOCOL.match(uri)
    return found[1].lower() if found else "file"


def is_complete(uri: str) -> bool:
    """True for a URL or an absolute path, False for a path relative to something."""
    return uri.startswith("/") or _PROTOCOL.match(uri) is not None


def absolute(uri: str) -> str:
    """Returns the location as plans and tables name it; its own results stay the same.

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
        # Bytes that are not UTF-8 go to a server percent-encoded.
        uri = _NO_TEXT.sub(lambda found: quote(_bytes(found[0])), uri)
        return uri if "?" in uri else uri.rstrip("/")
    # No store has a name that is not UTF-8; its replacement is absent there too.
    uri = uri if _is_text(uri) else _bytes(uri).decode("utf-8", "backslashreplace")
    return uri.rstrip("/")


def local_path(uri: str) -> str:
    """Returns the path of a location on a disk, as Python's own functions take it."""
    if uri.startswith(_BYTES_ON_DISK):
        return os.fsdecode(b"/" + unquote_to_bytes(uri[len(_BYTES_ON_DISK) :]))
    return _PROTOCOL.sub("", uri, count=1) if _PROTOCOL.match(uri) else uri


def local_uri(path: str) -> str:
    """Returns the location of an absolute path."""
    if _is_text(path):
        return path
    name = _bytes(path)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _BYTES_ON_DISK + quote(name.removeprefix(b"/"))


def join(base: str, *names: str) -> str:
    """Returns a location below another."""
    if base.startswith(_BYTES_ON_DISK):
        return local_uri("/".join([local_path(base).rstrip("/"), *names]))
    return "/".join([base.rstrip("/"), *names])


def below(uri: str, *, root: str) -> str:
    """Returns the path relative to the root, as text; the whole location if not below the root.

    Bytes that are not UTF-8 appear as `\\xff`. Different names stay different: a name with these
    four characters of its own has its backslash as `\\x5c`.
    """
    if uri.startswith(_BYTES_ON_DISK):
        path, folder = local_path(uri), f"{local_path(root).rstrip('/')}/"
        return _text(path.removeprefix(folder)) if path.startswith(folder) else uri
    name = uri.removeprefix(f"{root.rstrip('/')}/")
    return _text(name) if uri.startswith("/") and len(name) < len(uri) else name


def split_url(uri: str) -> tuple[str, str]:
    """Splits a URL into protocol with host, bucket or container, and all that follows."""
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
    # JSON can hold half of a surrogate pair, which no name on a disk and no key contains.
    name = _HALF.sub(lambda found: f"\\u{ord(found[0]):04x}", name)
    return name.encode("utf-8", "surrogateescape")
