"""Imports point one way, and processes that only read or write start without torch."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parents[1]
LAYERS = ("maskformer", "pipeline", "jobs")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
RAY = {
    "cluster", "doctor", "driver", "forecast", "gpu_actors", "inside_ray", "metrics", "node_groups",
    "operators", "ray_dataset", "ray_executor", "ray_workers", "remote_objects", "scheduling",
    "sub_drivers", "submission", "unit_queue", "worker",
}  # fmt: skip
TORCH = {
    "batch_segmenter", "batches_in_flight", "compiled_model", "device_jpegs", "little_memory",
    "model_inputs", "model_loading", "multi_view_segmenter", "pinned_uploads", "segmenter",
}  # fmt: skip


@cache
def imported(path: Path, *, at_start_only: bool = False) -> tuple[str, ...]:
    """Returns the modules that a file imports; optionally without those inside functions."""
    found: list[str] = []
    left: list[ast.AST] = [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.append(node.module or "")
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.stmt | ast.Module | ast.excepthandler | ast.match_case) and not (
            at_start_only and is_function
        ):
            left += ast.iter_child_nodes(node)
    return tuple(found)


def tops(path: Path, **options) -> set[str]:
    return {name.split(".")[0] for name in imported(path, **options)}


def test_there_are_files_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(LAYERS)


def test_imports_point_from_jobs_to_pipeline_to_maskformer():
    for path in FILES:
        layer = path.relative_to(ROOT).parts[0]
        above = set(LAYERS[LAYERS.index(layer) + 1 :])
        assert not tops(path) & (above | {"tests"}), path
        if layer == "maskformer":
            away = {"ray", "pyarrow", "fsspec", "s3fs", "jsonargparse", "rich"}
            assert not tops(path) & away, path
        else:
            inner = [name for name in imported(path) if name.startswith("maskformer.")]
            assert not inner, f"{path}: {layer} knows maskformer by its public names only"


def test_libraries_are_known_where_they_are_needed():
    for path in FILES:
        name = path.relative_to(ROOT)
        if "ray" in tops(path):
            assert path.stem in RAY, f"{name} imports ray"
        if "jsonargparse" in tops(path):
            assert name == Path("pipeline/runtime/settings.py")
            assert "jsonargparse" not in tops(path, at_start_only=True), "help needs none of it"
        if "shtab" in tops(path):
            assert name == Path("pipeline/cli/completion.py")
        if name.parts[0] == "jobs" and name.stem != "__init__":
            ours = {each for each in imported(path) if each.startswith("pipeline")}
            assert ours == {"pipeline.cli.running"}, name
        if tops(path) & {"fsspec", "s3fs"}:
            assert name.parent == Path("pipeline/storage"), name
        if name.parts[0] == "pipeline" and "torch" in tops(path, at_start_only=True):
            assert path.stem in TORCH or name.parts[1] == "training", name


def private_parts(tree: ast.AST) -> Iterator[str]:
    """Yields the names with one underscore before them that code looks up in something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (*str(node.module).split("."), *(alias.name for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


def test_one_file_looks_inside_a_library():
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    ours = {"_exit", "_typeshed"}  # of Python: to end a process at once, and for annotations
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                ours.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    found = {
        (path.name, name)
        for path, tree in trees.items()
        for name in private_parts(tree)
        if name.startswith("_") and not name.startswith("__") and name not in ours
    }
    assert found == {("inside_ray.py", "_private")}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported_modules(path: Path) -> set[str]:
    """The modules of this project that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {str(node.module)}
    return (found & MODULES.keys()) - {module_of(path)}


@cache
def imports_of_modules() -> Mapping[str, set[str]]:
    return {module: imported_modules(path) for module, path in MODULES.items()}


def folder_of(module: str) -> str:
    """A module below a folder stands for the folder, one beside the folders for itself."""
    parts = module.split(".")
    is_folder = MODULES[module].name == "__init__.py"
    return ".".join(parts[:2]) if len(parts) > 2 or is_folder else module


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_through_others():
    assert imports_of_modules()["maskformer.model"], "the imports were read"
    assert cycle_in(imports_of_modules()) == []


@pytest.mark.parametrize("package", ["maskformer", "pipeline"])
def test_no_folder_imports_itself_through_others(package):
    folders: dict[str, set[str]] = defaultdict(set)
    for module, others in imports_of_modules().items():
        if module.startswith(f"{package}."):
            folders[folder_of(module)] |= {
                folder_of(other) for other in others if other.startswith(f"{package}.")
            } - {folder_of(module)}
    assert cycle_in(folders) == []


def test_nothing_imports_the_command_but_the_jobs():
    users = {
        module
        for module, others in imports_of_modules().items()
        if any("pipeline.cli" in o for o in others)
    }
    assert {user.split(".")[0] for user in users if "pipeline.cli" not in user} == {"jobs"}


def test_settings_are_light():
    """Help shows them without loading what works with them."""
    names = [name for name in MODULES if name.endswith((".settings", ".actor_settings"))]
    assert len(names) > 8
    modules = modules_after("\n".join(f"import {name}" for name in names))
    assert not modules & {"torch", "ray", "pyarrow", "numpy", "PIL", "transformers", "jsonargparse"}


# Each folder imports only folders that stand before it: the later ones are about the earlier ones.
ORDER = (
    "storage", "runtime", "corpora", "table", "reviews", "planning", "labelling", "datasets",
    "exchange", "comparison", "evaluation", "training", "nightly", "maintenance", "review_page",
    "demo", "cli",
)  # fmt: skip


def test_folders_of_the_pipeline_import_only_those_before_them():
    for module, others in imports_of_modules().items():
        if not module.startswith("pipeline."):
            continue
        own = module.split(".")[1]
        before = ORDER[: ORDER.index(own) + 1]
        found = {other.split(".")[1] for other in others if other.startswith("pipeline.")}
        assert found <= {*before}, f"{module} imports {found - {*before}}"


def test_only_the_command_imports_the_demo():
    users = {
        module
        for module, others in imports_of_modules().items()
        if any(".demo" in o for o in others)
    }
    assert {user.split(".")[1] for user in users} == {"cli", "demo"}


def test_the_zoo_is_data_that_imports_nothing_of_maskformer():
    for module, others in imports_of_modules().items():
        if folder_of(module) == "maskformer.zoo":
            assert {folder_of(other) for other in others} <= {"maskformer.zoo"}, module


def test_only_the_folder_for_cpus_compiles():
    users = {
        module
        for module, others in imports_of_modules().items()
        if "maskformer.cpu.compiled" in others
    }
    users |= {module for module, path in MODULES.items() if "numba" in tops(path)}
    assert {folder_of(user) for user in users} == {"maskformer.cpu"}


WITHOUT_TORCH = [
    "pipeline.corpora.archives", "pipeline.corpora.compressed", "pipeline.corpora.corpus",
    "pipeline.corpora.decoding", "pipeline.corpora.encoded", "pipeline.corpora.manifests",
    "pipeline.corpora.parquet_images", "pipeline.corpora.reading",
    "pipeline.corpora.sources",
    "pipeline.runtime.settings", "pipeline.storage",
    "pipeline.demo.scenes.shards", "pipeline.table.store", "pipeline.datasets.checking",
    "pipeline.exchange.exporting.run", "pipeline.exchange.exporting.coco_panoptic",
    "pipeline.datasets.opening",
    "pipeline.evaluation.loading", "pipeline.evaluation.predictions",
    "pipeline.labelling.commit", "pipeline.planning.listing_diff", "pipeline.planning.splitting",
    "pipeline.labelling.reading.unit_loader", "pipeline.labelling.model",
    "pipeline.planning.planner",
    "pipeline.labelling.report", "pipeline.labelling.rows", "pipeline.labelling.settings",
    "pipeline.table.latest", "pipeline.nightly.lock", "pipeline.nightly.retrying",
    "pipeline.nightly.reporting", "pipeline.nightly.settling",
    "pipeline.training.sampler", "pipeline.training.recipes", "pipeline.training.targets",
]  # fmt: skip


def modules_after(code: str) -> set[str]:
    """The libraries that a fresh process has loaded after the code."""
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True, capture_output=True, text=True, cwd=ROOT,
    ).stdout  # fmt: skip
    return {name for name in printed.split() if "." not in name}


def test_processes_that_read_and_write_start_without_torch_and_ray():
    modules = modules_after("\n".join(f"import {name}" for name in WITHOUT_TORCH))
    assert not modules & {"torch", "torchvision", "timm", "scipy", "numba", "ray", "transformers"}


def test_drivers_and_ray_workers_start_without_torch():
    modules = modules_after("import pipeline.labelling.run, pipeline.evaluation.run")
    assert "ray" in modules
    assert not modules & {"torch", "torchvision", "timm", "transformers"}


def test_a_driver_without_a_cluster_starts_without_ray():
    modules = modules_after("import pipeline.labelling.run, pipeline.labelling.driving.local_child")
    assert not modules & {"ray", "torch", "torchvision", "timm", "scipy", "numba", "matplotlib"}


def test_children_are_started_before_the_driver_loads_its_libraries():
    """They load theirs meanwhile."""
    modules = modules_after("import pipeline.cli.__main__, pipeline.labelling.start")
    assert not modules & {"ray", "torch", "pandas", "pyarrow", "numpy", "duckdb", "rich"}


def test_the_job_itself_starts_without_torch():
    modules = modules_after("import jobs.segment_corpus")
    assert not modules & {"torch", "torchvision", "timm", "transformers"}


def test_each_library_that_is_imported_is_declared_and_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[\[<>=]", each)[0].lower() for each in project["dependencies"]}
    of_package = packages_distributions()
    declared |= {"playwright", "onnxruntime"}  # extras: pictures and --engine onnx need them
    used = set.union(*map(tops, FILES)) - set(sys.stdlib_module_names) - set(LAYERS)
    packages = {name: {each.lower() for each in of_package[name]} for name in used}
    assert [name for name, known in packages.items() if not known & declared] == []
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").open()}
    assert {name.replace("-", "_") for name in declared} <= {
        name.replace("-", "_") for name in pinned
    }
