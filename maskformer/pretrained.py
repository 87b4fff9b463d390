"""Pretrained models: what comes from a folder and goes to one, as transformers' models do.

`model.py` has the models. transformers' Trainer and pipeline take them too.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from maskformer.checkpoints.checkpoint import LoadReport, save_checkpoint
from maskformer.checkpoints.loading import load_pretrained
from maskformer.configuration import MaskFormerConfig
from maskformer.hub import HubOptions, Pushable
from maskformer.network.backbones import Backbone

Model = TypeVar("Model", bound="PretrainedModel")

# Options of transformers that have no meaning here, with what to do instead.
_REFUSED = {
    "attn_implementation": "attention is torch's scaled_dot_product_attention",
    "device_map": "move the model after loading, model.to(device)",
    "max_memory": "move the model after loading, model.to(device)",
    "offload_folder": "the model is loaded whole",
    "quantization_config": "quantised weights are not supported",
    "state_dict": "load tensors in memory with maskformer.load_weights(model, state_dict)",
    "tp_plan": "the model is not split over devices",
    "tp_size": "the model is not split over devices",
    "trust_remote_code": "nothing in a repository is ever run",
    "use_safetensors": "safetensors are taken where there are any; pickles are read as data",
    "variant": "give the file of weights in place of the folder",
}
# Values of theirs that say what is always so here.
_ALWAYS_SO: dict[str, tuple[Any, ...]] = {
    "_fast_init": (True, False),
    "adapter_kwargs": (None,),
    "low_cpu_mem_usage": (True, False, None),
    "resume_download": (True, False, None),
    "trust_remote_code": (False, None),
    "use_safetensors": (True, None),
    "weights_only": (True, None),
    **{name: (None,) for name in _REFUSED if name not in ("trust_remote_code", "use_safetensors")},
}


class PretrainedModel(nn.Module, Pushable):
    """Base of the models: loading, saving, sending to the hub, gradient checkpointing."""

    load_report: LoadReport = LoadReport()
    """What `from_pretrained` did not take from its file."""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    is_gradient_checkpointing = False

    def __init__(self, config: MaskFormerConfig) -> None:
        super().__init__()
        self.config = config

    @overload
    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        output_loading_info: Literal[True],
        **options: Any,
    ) -> tuple[Model, dict[str, Any]]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls: type[Model], pretrained_model_name_or_path: str | Path, **options: Any
    ) -> Model: ...

    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        config: MaskFormerConfig | str | Path | None = None,
        labels: Sequence[str] | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        allow_missing: Sequence[str] = (),
        allow_unexpected: Sequence[str] = (),
        **options: Any,
    ) -> Any:
        """The model of a folder, of a file with config.json beside it or `config` given, or of the
        hub (`org/name`, `hf://org/name`), in evaluation mode. Weights may be of any dialect:
        transformers', Detectron2's, safetensors or pickles, which are read and never run.

        With `labels` a trained model learns new ones: labels of the same name keep their rows of
        the class head, the others start afresh; `load_report` and the log say which.

        `dtype` is a torch dtype, its name, "auto" for that of the stored weights, or None for
        float32; `torch_dtype` is its old name. A weight that the model has and the file lacks or
        has in another shape, or the other way round, is an error, unless its name matches one of
        `allow_missing` (it keeps its fresh value) or `allow_unexpected` (it is passed over): shell
        patterns such as "class_predictor.*". `ignore_mismatched_sizes` allows every other shape.

        `options` are those of `hub.HubOptions` (`revision`, `token`, `cache_dir`,
        `local_files_only`, `force_download`, `subfolder`), and fields of the configuration to
        replace. `output_loading_info` gives (model, information) with transformers' keys.

        Raises:
            ValueError: there is no such model, or weights and configuration differ.
            TypeError: an option that means nothing here, with what to do instead.
        """
        hub, config_values = HubOptions.split(_without_transformers_own(options))
        if isinstance(config, str | Path):
            config = MaskFormerConfig.from_pretrained(config)
        model, report = load_pretrained(
            cls,
            str(pretrained_model_name_or_path),
            hub=hub,
            config=config,
            labels=labels,
            dtype=dtype if dtype is not None else torch_dtype,
            allow_missing=allow_missing,
            allow_unexpected=allow_unexpected,
            allow_misshapen=ignore_mismatched_sizes,
            config_values=config_values,
        )
        model.load_report = report
        model.eval()
        return (model, _loading_info(report)) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        safe_serialization: bool = True,
        **push_options: Any,
    ) -> None:
        """Writes config.json and model.safetensors, for us and for transformers.

        Weights larger than `max_shard_size` ("5GB", or bytes) go into several files with an index;
        without `safe_serialization` they are torch's pickles (pytorch_model.bin). `state_dict`
        takes the place of the model's own. Does nothing where `is_main_process` is False.
        `push_options` are those of `push_to_hub`, `repo_id` among them.
        """
        if not is_main_process:
            return
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        values = {**self.config.to_dict(), "architectures": [type(self).__name__], "dtype": dtype}
        MaskFormerConfig.from_dict(values).save_pretrained(save_directory)
        save_checkpoint(
            self,
            save_directory,
            state_dict=state_dict,
            max_shard_size=max_shard_size,
            as_safetensors=safe_serialization,
        )
        self._finish_saving(save_directory, push_to_hub=push_to_hub, push_options=push_options)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """The number of parameters, or of those that are trained, or of all but embeddings'."""
        embeddings = {
            id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)
        }
        return sum(
            parameter.numel()
            for parameter in self.parameters()
            if (parameter.requires_grad or not only_trainable)
            and not (exclude_embeddings and id(parameter) in embeddings)
        )

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Trains with less memory and a second forward pass of the backbone's blocks.

        Batch norm that is not frozen counts such a batch twice in its running statistics.

        Raises:
            ValueError: a setting other than torch's checkpointing of every block without
                re-entrance, which is the one here.
        """
        asked = {
            "use_reentrant": False,
            **(gradient_checkpointing_kwargs or {}),
            "every_n_layers": every_n_layers,
            "offload": offload,
        }
        if asked != {"use_reentrant": False, "every_n_layers": 1, "offload": False}:
            raise ValueError(
                "gradient checkpointing computes every block of the backbone again, without "
                f"re-entrance or offloading (use_reentrant=False), got {asked}"
            )
        self._set_gradient_checkpointing(True)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Does what `gradient_checkpointing_enable` does, under transformers' newer name."""
        self.gradient_checkpointing_enable(
            activation_checkpointing_kwargs, every_n_layers=every_n_layers, offload=offload
        )

    def gradient_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False)

    def activation_checkpointing_disable(self) -> None:
        self._set_gradient_checkpointing(False)

    @property
    def is_activation_checkpointing(self) -> bool:
        return self.is_gradient_checkpointing

    def _set_gradient_checkpointing(self, enabled: bool) -> None:
        for module in self.modules():
            if isinstance(module, Backbone):
                module.set_gradient_checkpointing(enabled)
            if isinstance(module, PretrainedModel):
                module.is_gradient_checkpointing = enabled

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def __class__(self) -> Any:
        """The class that isinstance asks for where the object's own is not it.

        transformers' Trainer writes config.json and shards for a PreTrainedModel only, and asks by
        isinstance. Being one by inheritance would import transformers, which is no dependency; so
        the model answers as one where transformers is in use, and is otherwise its own class.
        """
        modeling = sys.modules.get("transformers.modeling_utils")
        theirs = getattr(modeling, "PreTrainedModel", None)
        ours: Any = type(self)
        return ours if theirs is None else _answering_class(ours, theirs)

    @__class__.setter
    def __class__(self, kind: Any) -> None:  # as torch's fully_shard sets it
        object.__dict__["__class__"].__set__(self, kind)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles and copies by the class that the object has, not the one that it answers with."""
        return _without_init, (type(self),), self.__dict__


def _without_init(kind: type[Model]) -> Model:
    return kind.__new__(kind)


@cache
def _answering_class(ours: Any, theirs: Any) -> Any:
    namespace = {"__module__": ours.__module__, "__doc__": ours.__doc__}
    return type(ours.__name__, (ours, theirs), {**namespace, "config_class": MaskFormerConfig})


def _without_transformers_own(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is always so, and refuses what has no meaning here."""
    rest = {
        name: value
        for name, value in options.items()
        if not (name in _ALWAYS_SO and any(value is always for always in _ALWAYS_SO[name]))
    }
    if refused := sorted(rest.keys() & _REFUSED.keys()):
        reasons = "; ".join(f"{name}: {_REFUSED[name]}" for name in refused)
        raise TypeError(f"from_pretrained has no option {', '.join(refused)} ({reasons})")
    return rest


def _loading_info(report: LoadReport) -> dict[str, Any]:
    return {
        "missing_keys": set(report.missing),
        "unexpected_keys": set(report.unexpected),
        "mismatched_keys": {
            (name, torch.Size(stored), torch.Size(wanted))
            for name, stored, wanted in report.misshapen
        },
        "error_msgs": [],
    }
