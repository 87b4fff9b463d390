"""Puts this folder on the path of the tests below it, which import `tiny` and `stand_ins`."""

import pytest


@pytest.fixture(scope="module")
def transformers_processor():
    """Loads transformers' processor for PIL images, which resizes as ours does."""
    pytest.importorskip("transformers")
    from transformers.models.maskformer.image_processing_pil_maskformer import (
        MaskFormerImageProcessorPil,
    )

    return MaskFormerImageProcessorPil
