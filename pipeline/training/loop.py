"""The loop's one step: batches of one worker to weights that have learnt from those of all.

Takes the micro-batches of `batches.py`; `worker.py` calls it for each step of a run. Losses are
divided by what all workers and micro-batches hold together and gradients are averaged once, so that
a step does not depend on how its images were shared out.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskformer import MaskFormerForInstanceSegmentation, Normalisers, step_normalisers
from pipeline.training.batches import Batch
from pipeline.training.model_ema import ModelEMA
from pipeline.training.optimisation import (
    OptimisationSettings,
    build_optimiser,
    check_device,
    freeze,
    set_learning_rate,
)

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What came of a step; tensors, so that nobody waits for the device to write them down."""

    losses: dict[str, Tensor]
    """Weighted, by name. Of this worker's images, divided so that the mean over workers is the
    step's."""
    grad_norm: Tensor
    """Of the whole model before it is clipped; the same on all workers."""
    learning_rate: float
    was_taken: bool
    """False where the gradient was not finite and the weights stayed."""


class Trainer:
    """A model that learns, with all that a step changes.

    Where torch.distributed is initialised, every process of the group makes one and takes the same
    steps. Dropout draws from the seed, the step and the process, so that a run that goes on draws
    what it would have drawn.
    """

    def __init__(
        self,
        model: MaskFormerForInstanceSegmentation,
        *,
        settings: OptimisationSettings,
        seed: int,
        auxiliary_losses: bool = True,
    ) -> None:
        self.settings = settings
        self.model = _with_batch_norm(model, settings=settings).train()
        # Decided by the gradient's norm, which is the same for all: one that stops alone would
        # leave the others waiting.
        self.model.criterion.non_finite = "skip"
        self._resting = freeze(self.model, settings=settings)
        self.optimiser = build_optimiser(self.model, settings=settings)
        self._learning = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(
            self.model.device.type, enabled=settings.precision == "fp16"
        )
        self.averaged = (
            None
            if settings.average_decay is None
            else ModelEMA(self.model, decay=settings.average_decay)
        )
        self.num_left_out = 0
        """Steps that were left out so far, for their gradients were not finite."""
        self._seed = seed
        self._losses = _Losses(self.model, auxiliary_losses=auxiliary_losses)
        self._parallel: nn.Module = self._losses
        if settings.compile:
            self.model.compile()
        if _num_processes() > 1:
            self._parallel = DistributedDataParallel(self._losses, gradient_as_bucket_view=True)

    @property
    def delivered(self) -> MaskFormerForInstanceSegmentation:
        """The model to evaluate and to save: the average, where one is kept."""
        model = self.model if self.averaged is None else self.averaged.model
        assert isinstance(model, MaskFormerForInstanceSegmentation)
        return model

    def step(self, micro_batches: Sequence[Batch], *, step: int) -> StepResult:
        """Takes a step, which counts from 0; batches are on the model's device.

        Raises:
            FloatingPointError: the gradient is not finite and the settings say so, on all workers.
        """
        self._begin(step)
        rate = set_learning_rate(self.optimiser, step=step, settings=self.settings)
        normalisers = step_normalisers(
            [batch.class_labels for batch in micro_batches],
            num_queries=self.model.config.decoder_config.num_queries,
            eos_coef=self.model.criterion.eos_coef,
            device=self.model.device,
        )
        losses: dict[str, Tensor] = {}
        for number, batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            for name, loss in self._backward(batch, normalisers, is_last=is_last).items():
                losses[name] = losses[name] + loss if name in losses else loss
        self.scaler.unscale_(self.optimiser)
        bound = self.settings.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(
            self._learning, float("inf") if bound is None else bound
        )
        was_taken = self._update(grad_norm, step=step)
        return StepResult(
            losses=losses, grad_norm=grad_norm, learning_rate=rate, was_taken=was_taken
        )

    def share_buffers(self) -> None:
        """Gives all processes the statistics of batch norm that the first one has and saves.

        Each has those of its own images since the last step, and would judge by another model.
        """
        if _num_processes() > 1:
            for buffer in self.delivered.buffers():
                dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """All that a step changes, but for the delivered model's weights."""
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "num_left_out": self.num_left_out,
            "learning": None if self.averaged is None else self.model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there, with a model made of the weights that were delivered."""
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.num_left_out = state["num_left_out"]
        if state["learning"] is not None:
            self.model.load_state_dict(state["learning"])

    def _begin(self, step: int) -> None:
        process = dist.get_rank() if _num_processes() > 1 else 0
        torch.manual_seed((self._seed * 1_000_003 + step * 4_099 + process) % _LARGEST_SEED)
        self.model.train()
        for module in self._resting:
            module.eval()

    def _backward(
        self, batch: Batch, normalisers: Normalisers, *, is_last: bool
    ) -> dict[str, Tensor]:
        waits = is_last or not isinstance(self._parallel, DistributedDataParallel)
        with nullcontext() if waits else self._parallel.no_sync():  # type: ignore[operator]
            losses = self._run(batch, normalisers)
            self.scaler.scale(torch.stack(list(losses.values())).sum()).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _run(self, batch: Batch, normalisers: Normalisers) -> dict[str, Tensor]:
        dtype = _DTYPES[self.settings.precision]
        with torch.autocast(self.model.device.type, dtype, enabled=dtype is not None):
            return self._parallel(batch, normalisers)

    def _update(self, grad_norm: Tensor, *, step: int) -> bool:
        # The one wait of a step beside the matcher's: whether to take it.
        is_finite = bool(grad_norm.isfinite())
        if not is_finite:
            self.num_left_out += 1
            self._refuse_or_pass(grad_norm, step=step)
        if is_finite or self.scaler.is_enabled():
            # With a scaler, it is the one that leaves the step out, and lowers its scale.
            self.scaler.step(self.optimiser)
            self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if is_finite and self.averaged is not None:
            self.averaged.update(self.model, step=step)
        return is_finite

    def _refuse_or_pass(self, grad_norm: Tensor, *, step: int) -> None:
        # Too large a scale is no fault: it halves until the losses fit.
        may_be_the_scale = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if self.settings.non_finite == "raise" and not may_be_the_scale:
            raise FloatingPointError(
                f"step {step + 1}: the gradient must be finite, its norm is {float(grad_norm)}; "
                "lower learning_rate, or leave such steps out with --non_finite skip"
            )


class _Losses(nn.Module):
    """From a batch to its losses, as one call: what waits for other workers' gradients."""

    def __init__(self, model: MaskFormerForInstanceSegmentation, *, auxiliary_losses: bool) -> None:
        super().__init__()
        self.model = model
        self._auxiliary_losses = auxiliary_losses

    def forward(self, batch: Batch, normalisers: Normalisers) -> dict[str, Tensor]:
        outputs = self.model(batch.pixel_values, output_auxiliary_logits=self._auxiliary_losses)
        return self.model.get_loss_dict(
            outputs.masks_queries_logits,
            outputs.class_queries_logits,
            batch.mask_labels,
            batch.class_labels,
            outputs.auxiliary_logits if self._auxiliary_losses else [],
            num_masks=normalisers.num_masks,
            class_weight=normalisers.class_weight,
            valid=batch.valid,
        )


def _with_batch_norm(
    model: MaskFormerForInstanceSegmentation, *, settings: OptimisationSettings
) -> MaskFormerForInstanceSegmentation:
    if settings.batch_norm != "synchronised":
        return model
    check_device(settings, device=model.device.type)
    from timm.layers import convert_sync_batchnorm

    # timm's own, since torch's loses the activation that some of timm's norms include.
    return convert_sync_batchnorm(model)


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
