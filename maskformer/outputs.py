"""What the models give: named tensors, by attribute, by key and by position.

`model.py` makes them under transformers' names; the post-processing and the loss read them.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

FeatureMap = Float[Tensor, "batch _ _ _"]


class _Output(MutableMapping[str, Any]):
    """A mapping of the fields that are not None, in the order of the fields; `[0]` is the first.

    Can be rebuilt from a mapping or from pairs, `type(output)({...})`, as libraries do that cast or
    gather tensors. Entries that are no fields may be added by key, and come last.
    """

    def __init__(
        self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **given: Any
    ) -> None:
        names = {field.name for field in fields(self)}  # type: ignore[arg-type]
        if unknown := sorted(given.keys() - names):
            raise TypeError(f"{type(self).__name__} has no field {', '.join(unknown)}")
        for name, value in {**dict(values), **given}.items():
            setattr(self, name, value)

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        value = getattr(self, key) if key in self._names() else None
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __delitem__(self, key: str) -> None:
        self[key]
        setattr(self, key, None)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names() if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self[name] for name in self)

    def _names(self) -> list[str]:
        named = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return [*named, *(name for name in vars(self) if name not in named)]


@dataclass(init=False, eq=False)
class MaskFormerModelOutput(_Output):
    """Outputs of backbone, pixel decoder and query decoder, for an input of `height` x `width`.

    The states are None unless asked for. Those of the encoder have strides 4, 8, 16, 32; those of
    the pixel decoder 16, 8, 4; those of the query decoder begin with its input, zeros, and end
    normed.
    """

    encoder_last_hidden_state: FeatureMap | None = None
    pixel_decoder_last_hidden_state: FeatureMap | None = None
    transformer_decoder_last_hidden_state: Float[Tensor, "batch queries channels"] | None = None
    encoder_hidden_states: tuple[FeatureMap, ...] | None = None
    pixel_decoder_hidden_states: tuple[FeatureMap, ...] | None = None
    transformer_decoder_hidden_states: tuple[Float[Tensor, "batch queries _"], ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    """The three tuples above, one after the other."""
    attentions: tuple[Float[Tensor, "batch heads queries queries"], ...] | None = None
    """The self-attention of each decoder layer."""


@dataclass(init=False, eq=False)
class MaskFormerForInstanceSegmentationOutput(_Output):
    """Classes and masks of every query, and everything of `MaskFormerModelOutput`.

    The last class is "nothing". Masks are logits at a quarter of the input's size.
    """

    loss: Float[Tensor, ""] | None = None
    class_queries_logits: Float[Tensor, "batch queries classes"] | None = None
    masks_queries_logits: Float[Tensor, "batch queries _ _"] | None = None
    auxiliary_logits: list[dict[str, Tensor]] | None = None
    """The two logits above from each decoder layer but the last, first layer first."""
    encoder_last_hidden_state: FeatureMap | None = None
    pixel_decoder_last_hidden_state: FeatureMap | None = None
    transformer_decoder_last_hidden_state: Float[Tensor, "batch queries channels"] | None = None
    encoder_hidden_states: tuple[FeatureMap, ...] | None = None
    pixel_decoder_hidden_states: tuple[FeatureMap, ...] | None = None
    transformer_decoder_hidden_states: tuple[Float[Tensor, "batch queries _"], ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Float[Tensor, "batch heads queries queries"], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class QueryDecoding:
    """All that a batch's masks are made of, before any mask is made."""

    class_queries_logits: Float[Tensor, "batch queries classes"]
    mask_embeddings: Float[Tensor, "batch queries mask_channels"]
    pixel_features: Float[Tensor, "batch channels height width"]
    """The pixel decoder's last features, before the projection to the masks' channels."""
