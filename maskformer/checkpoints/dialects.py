"""Dialects: the names that codes give to MaskFormer's weights, and ours for them.

Takes tensors by name, stored or in memory; gives them by our names, which are those that
transformers publishes, with matrices that hold query, key and value cut in three. Detectron2 has
two versions: the pixel decoder's weights stood under `sem_seg_head` itself in the first. A name
that is in no table stays, so that whoever loads can say that it is unexpected.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar, runtime_checkable

Tensors = TypeVar("Tensors", bound="Rows")


@runtime_checkable
class Rows(Protocol):
    """A tensor, stored or in memory, that can be cut by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self: Tensors, rows: slice, /) -> Tensors: ...


Rules = tuple[tuple[str, str], ...]
"""Beginnings of names, there and here. A word in braces is a number that is the same in both."""

BACKBONE = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."

# The decoder's names in transformers 5's memory, and what they are on disk. Of the base model alone
# they begin without `model.`.
_TRANSFORMERS_5: Rules = tuple(
    (f"{layer}.{there}.", f"{layer}.{here}.")
    for layer in (
        "model.transformer_module.decoder.layers.{layer}",
        "transformer_module.decoder.layers.{layer}",
    )
    for there, here in (
        ("self_attn.o_proj", "self_attn.out_proj"),
        ("encoder_attn.o_proj", "encoder_attn.out_proj"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    )
)

# Names within the module `backbone` there and `BACKBONE` here.
SWIN: Rules = (
    ("patch_embed.proj.", "model.embeddings.patch_embeddings.projection."),
    ("patch_embed.norm.", "model.embeddings.norm."),
    *(
        (f"layers.{{stage}}.blocks.{{block}}.{there}", f"{layer}.blocks.{{block}}.{here}")
        for layer in ["model.encoder.layers.{stage}"]
        for there, here in (
            ("norm1.", "layernorm_before."),
            ("norm2.", "layernorm_after."),
            ("attn.qkv.", "attention.self.(query|key|value)."),
            ("attn.relative_position_", "attention.self.relative_position_"),
            ("attn.proj.", "attention.output.dense."),
            ("mlp.fc1.", "intermediate.dense."),
            ("mlp.fc2.", "output.dense."),
        )
    ),
    ("layers.{stage}.downsample.", "model.encoder.layers.{stage}.downsample."),
    ("norm{stage}.", "hidden_states_norms.{stage}."),
)


def _convolution(there: str, here: str) -> Rules:
    return (
        (f"{there}.norm.", f"{here}.normalization."),
        (f"{there}.", f"{here}.convolution."),
    )


def _stage(stage: int) -> Rules:
    there, here = f"res{stage + 2}.{{block}}", f"encoder.stages.{stage}.layers.{{block}}"
    return (
        *_convolution(f"{there}.shortcut", f"{here}.shortcut"),
        *_convolution(f"{there}.conv1", f"{here}.layer.0"),
        *_convolution(f"{there}.conv2", f"{here}.layer.1"),
        *_convolution(f"{there}.conv3", f"{here}.layer.2"),
    )


RESNET: Rules = (*_stage(0), *_stage(1), *_stage(2), *_stage(3))

_PLAIN_STEM: Rules = _convolution("stem.conv1", "embedder.embedder")
_DEEPLAB_STEM: Rules = tuple(
    rule for n in (1, 2, 3) for rule in _convolution(f"stem.conv{n}", f"embedder.embedder.{n - 1}")
)


def _group(there: str, here: str) -> Rules:
    return (f"{there}.norm.", f"{here}.1."), (f"{there}.", f"{here}.0.")


def _attention(there: str, here: str) -> Rules:
    return (
        (f"{there}.in_proj_", f"{here}.(q_proj|k_proj|v_proj)."),
        (f"{there}.out_proj.", f"{here}.out_proj."),
    )


def _parts(there: str, here: str, **names: str) -> Rules:
    return tuple((f"{there}.{part}.", f"{here}.{name}.") for part, name in names.items())


def _level(level: int) -> Rules:
    here = f"fpn.layers.{3 - level}"
    return (
        *_group(f"adapter_{level}", f"{here}.proj"),
        *_group(f"layer_{level}", f"{here}.block"),
    )


def _encoder_layer(there: str, here: str) -> Rules:
    return (
        *_attention(f"{there}.self_attn", f"{here}.self_attn"),
        *_parts(there, here, linear1="fc1", linear2="fc2"),
        *_parts(there, here, norm1="self_attn_layer_norm", norm2="final_layer_norm"),
    )


def _decoder_layer(there: str, here: str) -> Rules:
    return (
        *_attention(f"{there}.self_attn", f"{here}.self_attn"),
        *_attention(f"{there}.multihead_attn", f"{here}.encoder_attn"),
        *_parts(there, here, linear1="fc1", linear2="fc2"),
        *_parts(there, here, norm1="self_attn_layer_norm", norm2="encoder_attn_layer_norm"),
        *_parts(there, here, norm3="final_layer_norm"),
    )


# Names within the module `sem_seg_head.pixel_decoder` there.
_PIXEL_DECODER: Rules = (
    *_group("layer_4", "fpn.stem"),
    *_level(3),
    *_level(2),
    *_level(1),
    ("mask_features.", "mask_projection."),
    ("input_proj.", "encoder.input_projection."),
    *_encoder_layer("transformer.encoder.layers.{layer}", "encoder.layers.{layer}"),
)

# Names within the module `sem_seg_head.predictor` there.
_PREDICTOR: Rules = (
    ("input_proj.", f"{_QUERIES}input_projection."),
    ("query_embed.", f"{_QUERIES}queries_embedder."),
    *_decoder_layer("transformer.decoder.layers.{layer}", f"{_QUERIES}decoder.layers.{{layer}}"),
    ("transformer.decoder.norm.", f"{_QUERIES}decoder.layernorm."),
    ("class_embed.", "class_predictor."),
    ("mask_embed.layers.{layer}.", "mask_embedder.{layer}.0."),
)


def our_names(tensors: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """The tensors of a whole model by our names, whatever dialect theirs are."""
    if any(name.startswith("sem_seg_head.") for name in tensors):
        return translated(_version_2(tensors), rules=_detectron2(tensors))
    return translated(tensors, rules=_TRANSFORMERS_5)


def translated(tensors: Mapping[str, Tensors], *, rules: Rules) -> dict[str, Tensors]:
    """Renames by the first rule that fits; a rule of three names cuts a tensor in three."""
    patterns = [(_pattern(there), here) for there, here in rules]
    ours: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        ours |= _cut(tensor, names=_alternatives(_renamed(name, patterns)))
    return ours


def detectron2_backbone(names: Iterable[str]) -> Rules:
    """Rules for the names in Detectron2's backbones, without `backbone.`."""
    deep = any(name.startswith("stem.conv2.") for name in names)
    return (*SWIN, *RESNET, *(_DEEPLAB_STEM if deep else _PLAIN_STEM))


def _detectron2(names: Iterable[str]) -> Rules:
    backbone = detectron2_backbone([name.removeprefix("backbone.") for name in names])
    pixels = "sem_seg_head.pixel_decoder."
    return (
        *((f"backbone.{there}", BACKBONE + here) for there, here in backbone),
        *((pixels + there, _PIXELS + here) for there, here in _PIXEL_DECODER),
        *((f"sem_seg_head.predictor.{there}", here) for there, here in _PREDICTOR),
    )


def _version_2(tensors: Mapping[str, Tensors]) -> dict[str, Tensors]:
    old = re.compile(r"sem_seg_head\.(?!pixel_decoder\.|predictor\.)")
    return {old.sub("sem_seg_head.pixel_decoder.", name): t for name, t in tensors.items()}


def _pattern(there: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(there)))


def _renamed(name: str, patterns: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, here in patterns:
        if found := pattern.match(name):
            return here.format(**found.groupdict()) + name[found.end() :]
    return name


def _alternatives(name: str) -> list[str]:
    found = re.search(r"\((.*)\)", name)
    if found is None:
        return [name]
    return [name.replace(found[0], word) for word in found[1].split("|")]


def _cut(tensor: Tensors, *, names: list[str]) -> dict[str, Tensors]:
    if len(names) == 1 or not tensor.shape or tensor.shape[0] % len(names):
        # Its shape cannot be right; the comparison with the model reports it.
        return dict.fromkeys(names, tensor)
    rows = tensor.shape[0] // len(names)
    return {name: tensor[n * rows : (n + 1) * rows] for n, name in enumerate(names)}
