"""Takes one optimiser step with the micro-batches of one worker, together with all workers.

The micro-batches come from `batches.py`; `worker.py` calls this for each step. Losses are
normalised over all workers and micro-batches and gradients are averaged once, so that a step does
not depend on how its images were shared out.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskformer import MaskFormerForInstanceSegmentation, Normalisers, step_normalisers
from pipeline.labelling.segmenting.model_loading import set_float32_precision
from pipeline.training.batches import Batch
from pipeline.training.host_copy import HostCopy
from pipeline.training.model_ema import ModelEMA
from pipeline.training.optimisation import (
    OptimisationSettings,
    build_optimiser,
    check_device,
    compile_blocks,
    freeze,
    freeze_unused,
    restore_optimiser,
    set_learning_rate,
)

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The losses and the gradient of a step, as tensors, for which the host need not wait."""

    losses: dict[str, Tensor]
    """Weighted losses by name, of this worker's images; their mean over workers is the step's."""
    grad_norm: Tensor
    """The gradient norm of the whole model before clipping; the same on all workers."""
    learning_rate: float
    was_taken: Tensor
    """False where the gradient was not finite and the weights stayed; one boolean."""


class Trainer:
    """A model in training, with its optimiser and all else that a step changes.

    Where torch.distributed is initialised, every process of the group makes one and takes the same
    steps. Dropout is seeded by seed, step and process, so that a resumed run draws what an unbroken
    one draws.
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
        # The gradient's norm decides about the step, since it is the same on all workers: a worker
        # that stopped alone would leave the others waiting.
        self.model.criterion.non_finite = "skip"
        freeze_unused(self.model)
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
        """The number of steps skipped because their gradients were not finite, up to the last step
        that `settle` knows of."""
        self._last_norm = HostCopy(3, device=self.model.device)
        self._seed = seed
        self._losses = _Losses(self.model, auxiliary_losses=auxiliary_losses)
        self._parallel: nn.Module = self._losses
        if settings.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if settings.compile:
            compile_blocks(self.model)
        if _num_processes() > 1:
            self._parallel = DistributedDataParallel(self._losses, gradient_as_bucket_view=True)

    @property
    def delivered(self) -> MaskFormerForInstanceSegmentation:
        """Returns the model to evaluate and save: the moving average, where one is kept."""
        model = self.model if self.averaged is None else self.averaged.model
        assert isinstance(model, MaskFormerForInstanceSegmentation)
        return model

    def step(self, micro_batches: Sequence[Batch], *, step: int) -> StepResult:
        """Takes a step, which counts from 0; batches are on the model's device.

        The host waits for the device once, in the matcher.

        Raises:
            FloatingPointError: the gradient of this step, or on a GPU of the step before, is not
                finite and the settings say so; on all workers.
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
        self.settle()  # the step before, which the device finished before this one's matching
        self.scaler.unscale_(self.optimiser)
        bound = self.settings.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(
            self._learning, float("inf") if bound is None else bound
        )
        was_taken = self._update(grad_norm, step=step)
        if self._last_norm.is_immediate:
            self.settle()
        return StepResult(
            losses=losses, grad_norm=grad_norm, learning_rate=rate, was_taken=was_taken
        )

    def settle(self) -> None:
        """Learns whether the last step was taken; waits for the device to finish it.

        Raises:
            FloatingPointError: its gradient is not finite and the settings say so.
        """
        last = self._last_norm.take()
        if last is None:
            return
        norm, loss_scale, step = last
        if math.isfinite(norm):
            return
        self.num_left_out += 1
        # A scale that is too large is no error: it halves until the losses fit.
        if self.settings.non_finite == "raise" and not loss_scale > 1:
            raise FloatingPointError(
                f"step {step:.0f}: the gradient must be finite, its norm is {norm}; "
                "lower --learning_rate, or skip such steps with --non_finite skip"
            )

    def share_buffers(self) -> None:
        """Copies the first process's statistics of batch norm to all processes.

        Each process has statistics of its own images, and would otherwise evaluate another model
        than the first one saves.
        """
        if _num_processes() > 1:
            for buffer in self.delivered.buffers():
                dist.broadcast(buffer, src=0)

    def state_dict(self) -> dict[str, Any]:
        """Returns all that a step changes, except for the weights of `delivered`."""
        self.settle()
        return {
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "num_left_out": self.num_left_out,
            "learning": None if self.averaged is None else self.model.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state; the model must have been made from the saved weights of `delivered`."""
        restore_optimiser(self.optimiser, state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.num_left_out = state["num_left_out"]
        if state["learning"] is not None:
            self.model.load_state_dict(state["learning"])

    def _begin(self, step: int) -> None:
        # At each step, since a validation in between may have set it for itself.
        set_float32_precision("tf32" if self.settings.tf32 else "fp32")
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

    def _update(self, grad_norm: Tensor, *, step: int) -> Tensor:
        """Changes the weights, unless the gradient is not finite, which the device itself tells."""
        is_finite = grad_norm.isfinite()
        loss_scale = self.scaler.scale(torch.ones_like(grad_norm))
        number = torch.full_like(grad_norm, step + 1)
        # AdamW's fused kernel reads it, as a gradient scaler sets it, and then changes nothing.
        self.optimiser.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update(self.model, step=step, was_taken=is_finite)
        self._last_norm.send(torch.stack([grad_norm, loss_scale, number]))
        return is_finite


class _Losses(nn.Module):
    """Computes the losses of a batch in one call, which DistributedDataParallel can wrap."""

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

    # torch's conversion drops the activation that some of timm's norms include.
    return convert_sync_batchnorm(model)


def _num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
