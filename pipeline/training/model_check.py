"""Checks that model, settings and images fit, before a worker starts.

Builds the workers' model on the meta device, which has shapes and no memory, and runs it on the
shape of a batch. An error here would come on all workers, each time that they are started.
"""

import torch

from maskformer import LoadReport, check_forward
from pipeline.training.batches import collate
from pipeline.training.initial_model import Start, build_model
from pipeline.training.optimisation import OptimisationSettings, build_optimiser, freeze
from pipeline.training.samples import TrainingData

# torch and timm raise these where sizes in a configuration do not fit.
_DO_NOT_FIT = (
    RuntimeError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError
)  # fmt: skip


def check_training_model(
    start: Start, *, data: TrainingData, optimisation: OptimisationSettings, num_images: int
) -> LoadReport:
    """Checks the model; returns the report on the weights that it keeps.

    Args:
        num_images: images of the smallest micro-batch.

    Raises:
        ValueError: weights, configuration, frozen weights or the size of the images do not fit.
        LabelError: the first image is damaged.
        StorageFault, SourceChanged: the storage failed, or holds another file now.
    """
    try:
        with torch.device("meta"):
            model = build_model(start, seed=data.seed)
            freeze(model, settings=optimisation)
            build_optimiser(model, settings=optimisation)
    except _DO_NOT_FIT as error:
        raise ValueError(
            f"no model can be built of the configuration of {start.name}: {error!r}; see "
            "backbone_config and decoder_config in its config.json or in --architecture"
        ) from error
    batch = collate(
        [data.sample(0, 0)],
        processor=data.processor,
        padded_size=data.augmentation.padded_size,
    )
    height, width = batch.pixel_values.shape[2:]
    check_forward(model.train(), size=(height, width), num_images=num_images)
    return model.load_report
