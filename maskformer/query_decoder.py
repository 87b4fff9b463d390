"""The query decoder: learned queries look at the coarsest feature map and become embeddings.

Takes the backbone's last map; gives each query's state after each layer. `model.py` turns the last,
or with auxiliary losses each, into a class and a mask.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.activations import activation
from maskformer.configuration import MaskFormerDetrConfig

QueryStates = Float[Tensor, "batch queries channels"]

_TEMPERATURE = 10_000.0


@dataclass(frozen=True, kw_only=True)
class DecodedQueries:
    """What the layers gave, first layer first."""

    layer_states: list[QueryStates]
    """Each layer's output, the last one normed, and the zeros that went in before them."""
    normed_states: list[QueryStates]
    """Each layer's output, normed, where they were asked for; otherwise the last alone."""
    attentions: list[Float[Tensor, "batch heads queries queries"]] | None


class QueryDecoder(nn.Module):
    """Queries, their positions on the map, and the layers."""

    def __init__(self, *, in_channels: int, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        width = config.d_model
        if width % 4:
            raise ValueError(f"decoder_config.d_model must be a multiple of 4, got {width}")
        self.queries_embedder = nn.Embedding(config.num_queries, width)
        self.input_projection = nn.Conv2d(in_channels, width, 1) if in_channels != width else None
        self.decoder = _Layers(config)
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter, gain=config.init_xavier_std)

    def forward(
        self,
        image_features: Float[Tensor, "batch _ height width"],
        *,
        every_layer: bool = False,
        with_attentions: bool = False,
    ) -> DecodedQueries:
        if self.input_projection is not None:
            image_features = self.input_projection(image_features)
        batch, channels, height, width = image_features.shape
        memory = image_features.flatten(2).transpose(1, 2)
        positions = position_embedding(height, width, channels, memory.device, memory.dtype)
        queries = self.queries_embedder.weight.expand(batch, -1, -1)
        return self.decoder(
            memory,
            positions=positions,
            queries=queries,
            every_layer=every_layer,
            with_attentions=with_attentions,
        )


class _Layers(nn.Module):
    def __init__(self, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        if config.auxiliary_loss:
            raise ValueError(
                "decoder_config.auxiliary_loss must be False: it norms the states between the "
                "layers and so changes the model; use_auxiliary_loss is the one for training"
            )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_layers))
        self.layernorm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        memory: Float[Tensor, "batch places channels"],
        *,
        positions: Float[Tensor, "places channels"],
        queries: QueryStates,
        every_layer: bool,
        with_attentions: bool,
    ) -> DecodedQueries:
        keys = memory + positions
        states = [torch.zeros_like(queries, dtype=memory.dtype)]
        attentions = []
        for layer in self.layers:
            state, weights = layer(
                states[-1],
                queries=queries,
                keys=keys,
                values=memory,
                with_attentions=with_attentions,
            )
            states.append(state)
            attentions.append(weights)
        normed = [self.layernorm(state) for state in (states[1:] if every_layer else states[-1:])]
        return DecodedQueries(
            layer_states=[*states[:-1], normed[-1]],
            normed_states=normed,
            attentions=attentions if with_attentions else None,
        )


class _Layer(nn.Module):
    def __init__(self, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = _Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = _Attention(config)
        self.encoder_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation = activation(config.activation_function)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(
        self,
        state: QueryStates,
        *,
        queries: QueryStates,
        keys: Float[Tensor, "batch places channels"],
        values: Float[Tensor, "batch places channels"],
        with_attentions: bool,
    ) -> tuple[QueryStates, Tensor | None]:
        placed = state + queries
        attended, weights = self.self_attn(placed, placed, state, with_weights=with_attentions)
        state = self.self_attn_layer_norm(state + self.dropout(attended))
        attended, _ = self.encoder_attn(state + queries, keys, values)
        state = self.encoder_attn_layer_norm(state + self.dropout(attended))
        widened = self.activation_dropout(self.activation(self.fc1(state)))
        return self.final_layer_norm(state + self.dropout(self.fc2(widened))), weights


class _Attention(nn.Module):
    def __init__(self, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        width, self.num_heads = config.d_model, config.decoder_attention_heads
        if width % self.num_heads:
            raise ValueError(
                "decoder_config.d_model must be a multiple of decoder_attention_heads, got "
                f"{width} and {self.num_heads}"
            )
        self.dropout = config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        query: QueryStates,
        key: Float[Tensor, "batch places channels"],
        value: Float[Tensor, "batch places channels"],
        *,
        with_weights: bool = False,
    ) -> tuple[QueryStates, Float[Tensor, "batch heads queries places"] | None]:
        query, key, value = (
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        dropout = self.dropout if self.training else 0.0
        weights = None
        if with_weights:
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            weights = functional.dropout(scores.softmax(dim=-1), p=dropout)
            attended = weights @ value
        else:
            attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights


def position_embedding(
    height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "places channels"]:
    """Sines and cosines of row, then of column, each as a share of the whole turn.

    Made in float32 whatever `dtype`: half precision cannot tell neighbours apart on a large map.
    """
    make = _make_embedding if torch.compiler.is_compiling() else _cached_embedding
    return make(height, width, channels, device, dtype)


def _make_embedding(
    height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "places channels"]:
    # Not an inference tensor, even when made there: training may meet it later.
    with torch.inference_mode(False), torch.no_grad():
        rows = _waves(height, channels // 2, device)[:, None].expand(-1, width, -1)
        columns = _waves(width, channels // 2, device)[None].expand(height, -1, -1)
        return torch.cat([rows, columns], dim=2).flatten(0, 1).to(dtype)


_cached_embedding = lru_cache(maxsize=64)(_make_embedding)


def _waves(length: int, channels: int, device: torch.device) -> Float[Tensor, "length channels"]:
    place = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    turn = place / (length + 1e-6) * (2 * math.pi)
    pair = torch.arange(channels // 2, dtype=torch.float32, device=device)
    angle = turn[:, None] / _TEMPERATURE ** (2 * pair / channels)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
