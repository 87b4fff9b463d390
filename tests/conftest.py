"""What every test shares: shapes in signatures are checked, and the shared data is looked for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

pytest_plugins = ["figures"]

# Before anything imports the package: from here on each call checks its shapes.
install_import_hook("maskformer", "beartype.beartype")

# Before Ray is imported: all of its processes listen on 127.0.0.1 alone.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

# The same cases in every run, on every machine.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")

# Files that take longest begin first, so that none is left alone at the end. Those that need what
# another makes (a run of one corpus, in a fixture) are apart from it, so that they do not wait.
LONGEST_FIRST = (
    "jobs/test_segment_corpus.py",
    "jobs/test_finetune.py",
    "jobs/test_kills.py",
    "jobs/test_hard_inputs.py",
    "jobs/test_cluster.py",
    "jobs/test_s3.py",
    "jobs/",
    "pipeline/labelling/driving/",
    "pipeline/labelling/failures/",
    "maskformer/test_export.py",
    "pipeline/training/test_batch_loading.py",
    "pipeline/planning/",
    "faults/",
    "maskformer/",
    "pipeline/training/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests by how long their files take; see `make test`."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        ranks = (at for at, begin in enumerate(LONGEST_FIRST) if path.startswith(begin))
        return next(ranks, len(LONGEST_FIRST))

    items.sort(key=rank)


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
