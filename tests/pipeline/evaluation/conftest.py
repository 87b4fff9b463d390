"""What the tests of evaluation share: a data set whose segments are known."""

import pytest
from corpora import put
from drawn_labels import panoptic_shards, scenes

from pipeline.datasets.dataset import LabelledImages
from pipeline.datasets.opening import open_labelled
from pipeline.datasets.settings import DatasetSettings


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Six scenes."""
    root = put(tmp_path_factory.mktemp("scenes"), panoptic_shards(scenes(6)))
    return open_labelled(DatasetSettings(dataset=root))
