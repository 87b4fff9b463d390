"""The query decoder: learned queries look at one feature map and become embeddings.

Takes the map that the pixel decoder's side names, the backbone's coarsest unless the configuration
says otherwise; gives each query's state after each layer. `model.py` turns the last, or with
auxiliary losses each, into a class and a mask.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskformer.configuration import MaskFormerDetrConfig
from maskformer.network.activations import activation
from maskformer.network.attention import Attention, xavier
from maskformer.network.convolutions import xavier_convolution
from maskformer.network.positions import position_embedding

QueryStates = Float[Tensor, "batch queries channels"]


@dataclass(frozen=True, kw_only=True)
class DecodedQueries:
    """The outputs of the layers, first layer first."""

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
        queries = torch.empty(config.num_queries, width)
        if not queries.is_meta:  # there it would import a compiler: 1.4 s
            nn.init.normal_(queries)
        self.queries_embedder = nn.Embedding.from_pretrained(queries, freeze=False)
        self.input_projection = (
            xavier_convolution(in_channels, width, size=1) if in_channels != width else None
        )
        self.decoder = _Layers(config)
        xavier(self.decoder, gain=config.init_xavier_std)

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
        self.self_attn = Attention(
            width, num_heads=config.decoder_attention_heads, dropout=config.attention_dropout
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.encoder_attn = Attention(
            width, num_heads=config.decoder_attention_heads, dropout=config.attention_dropout
        )
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
