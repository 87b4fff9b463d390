"""Tells the version of the installed project."""

from importlib.metadata import PackageNotFoundError, version


def project_version() -> str:
    """Returns the version of the installed project; of a checkout that is not installed, a word."""
    try:
        return version("maskformer-pipeline")
    except PackageNotFoundError:
        return "from a checkout"
