"""What every test shares: shapes in signatures are checked, and the shared data is looked for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports the package: from here on each call checks its shapes.
install_import_hook("maskformer", "beartype.beartype")

# Before Ray is imported: all of its processes listen on 127.0.0.1 alone.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

# The same cases in every run, on every machine.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

SHARED = Path(os.environ.get("SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps exported models where all of pytest's processes find them, or where this is set."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = os.environ.get("MASKFORMER_GRAPHS") or str(base / "graphs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKFORMER_GRAPHS", folder)
        yield Path(folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"the development data is not at {SHARED}")
    return SHARED
