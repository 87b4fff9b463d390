"""Returns the fsspec filesystem of a protocol, or says why there is none."""

from typing import Any

import fsspec
from fsspec.registry import known_implementations, registry

from pipeline.storage import uris

_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "adl": "adlfs"}


def reason_impossible(uri: str) -> str | None:
    """Returns why no store can have an object at that location; None where one may."""
    if "\0" in uri:
        return "a location cannot hold the character NUL"
    protocol = uris.protocol(uri)
    if protocol not in known_implementations and protocol not in registry:
        return f"there is no protocol {protocol}:// here; known are s3, gs, az, http and so on"
    return None


def filesystem_of(uri: str, **options: Any) -> tuple[Any, str]:
    """Returns the fsspec filesystem of a location, and the location's path in it.

    Raises:
        ValueError: the protocol is unknown, or the package that it needs is not installed.
    """
    if reason := reason_impossible(uri):
        raise ValueError(f"{uri}: {reason}")
    try:
        return fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        protocol = uris.protocol(uri)
        package = _PACKAGES.get(protocol)
        what = f"pip install {package}" if package else str(error)
        raise ValueError(
            f"{protocol}:// needs a package that is not installed: {what}, here and on every node "
            "of the cluster"
        ) from error
