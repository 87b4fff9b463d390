"""Checks locations that people type, and describes what exists near a wrong one.

Checked before any request: a store that cannot have such a location answers with a fault that looks
as if a retry could help.
"""

import difflib
import os
import re

from pipeline.storage import Storage, StorageFault
from pipeline.storage.protocols import reason_impossible

_S3 = re.compile(r"(?i)s3a?://([^/]*)")
_BUCKET = re.compile(r"[A-Za-z0-9.\-_]{1,255}|arn:[^*?\[{]+")
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_MOST_SHOWN = 3


def check_location(uri: str, *, setting: str) -> None:
    """Raises if nothing can exist at a location.

    Raises:
        ValueError: names the setting, what was given and what to type.
    """
    if not uri.strip():
        raise ValueError(f"{setting} must be a path or URL, got {uri!r}")
    if reason := reason_impossible(uri):
        raise ValueError(
            f"{setting} must be a path or URL that can be there, got {uri!r}: {reason}"
        )
    if _ONE_SLASH.match(uri):
        raise ValueError(f"{setting} is a URL with one slash, got {uri}; type two, as s3://bucket")
    bucket = _S3.match(uri)
    if bucket and not _BUCKET.fullmatch(bucket[1]):
        raise ValueError(
            f"{setting} must name a bucket after s3://, in letters, digits, dots and dashes, as "
            f"s3://bucket/folder, got {uri}"
        )


def check_folder_location(uri: str, *, setting: str) -> None:
    """Raises if no folder can be made at a location, because something else is there.

    Raises:
        ValueError: names the setting, what is there and what to type.
    """
    check_location(uri, setting=setting)
    if uri.startswith(("http://", "https://")):
        raise ValueError(f"{setting} must be a place to write to, got {uri}; name a disk or bucket")
    if "://" in uri:
        return
    path = os.path.abspath(os.path.expanduser(uri))
    while path != os.path.dirname(path) and not os.path.lexists(path):
        path = os.path.dirname(path)
    if os.path.islink(path) and not os.path.exists(path):
        found = f"{path} is a link to {os.readlink(path)}, which is not there"
    elif not os.path.isdir(path):
        found = f"{path} is a file"
    else:
        return
    raise ValueError(f"{setting} must be a folder or can become one, but {found}; name another")


def describe_nothing_at(uri: str, *, storage: Storage) -> str:
    """Says what is near a location that holds nothing; empty where it holds something."""
    return "" if _names(uri, storage=storage) else describe_nearest_folder(uri, storage=storage)


def describe_nearest_folder(uri: str, *, storage: Storage) -> str:
    """Names the nearest existing folder above a location and some of what it holds."""
    path = storage.absolute(uri)
    if "://" not in path and os.path.isdir(path):
        return f"the folder {path} holds no files"
    if path.startswith(("http://", "https://")):
        return f"there is nothing at {path}"
    above, name = path, ""
    while above.rpartition("/")[0].strip("/") and not above.endswith(":/"):
        above, _, name = above.rpartition("/")
        if names := _names(above, storage=storage):
            alike = difflib.get_close_matches(name, names)
            shown = list(dict.fromkeys([*alike, *names]))[:_MOST_SHOWN]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            return (
                f"there is nothing at {path}; the nearest place with anything is {above}, with "
                f"{', '.join(shown)}{more}"
            )
    return f"there is nothing at {path}, nor above it"


def _names(folder: str, *, storage: Storage) -> list[str]:
    """Returns the names in a folder, none where it is absent or cannot be listed."""
    try:
        fs, path = storage.filesystem(folder)
        listed = fs.ls(path, detail=False)
    except (OSError, StorageFault, ValueError):
        return []
    names = (str(each).rstrip("/").rpartition("/")[2] for each in listed)
    return sorted(name for name in names if not name.startswith("."))
