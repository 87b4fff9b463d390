"""A small model with random weights, as the files that a run hands to its actors."""

from pathlib import Path

import pytest
from small_model import small_model

from maskformer import MaskFormerImageProcessor


@pytest.fixture(scope="session")
def processor() -> MaskFormerImageProcessor:
    return MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 160})


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, processor: MaskFormerImageProcessor
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    small_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_files(model_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(model_folder.iterdir())}
