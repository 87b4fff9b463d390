"""Attention between tokens: what the query decoder and the pixel decoder's encoder are made of."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

States = Float[Tensor, "batch tokens channels"]

_FEW_SCORES = 2**18


def xavier(transformer: nn.Module, *, gain: float) -> None:
    """Initialises the matrices of a transformer as the published code does.

    There query, key and value are one matrix of three times as many rows, which narrows Xavier's
    bound by the root of two; and the biases of attention begin at zero.
    """
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain=gain)
    for module in transformer.modules():
        if isinstance(module, Attention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                nn.init.xavier_uniform_(projection.weight, gain=gain * 0.5**0.5)
                nn.init.zeros_(projection.bias)
            nn.init.zeros_(module.out_proj.bias)


class Attention(nn.Module):
    """Attention of several heads, each projection by itself, as the published format has it."""

    def __init__(self, width: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"the width of attention must be a multiple of its heads, got {width} and "
                f"{num_heads}; see d_model, fpn_feature_size, encoder_attention_heads and "
                "decoder_attention_heads in config.json"
            )
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        query: States,
        key: Float[Tensor, "batch places channels"],
        value: Float[Tensor, "batch places channels"],
        *,
        with_weights: bool = False,
    ) -> tuple[States, Float[Tensor, "batch heads tokens places"] | None]:
        query, key, value = (
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )
        dropout = self.dropout if self.training else 0.0
        weights = None
        if with_weights or _is_slow_backward(query, key):
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])
            weights = functional.dropout(scores.softmax(dim=-1), p=dropout)
            attended = weights @ value
        else:
            attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        attended = self.out_proj(attended.transpose(1, 2).flatten(2))
        return attended, weights if with_weights else None


def _is_slow_backward(
    query: Float[Tensor, "batch heads tokens width"], key: Float[Tensor, "batch heads places width"]
) -> bool:
    """Tells whether the gradient of torch's attention takes longer than that of plain products.

    Up to three times, in half the bits on a CPU, where all scores fit into its cache.
    """
    return (
        query.requires_grad
        and query.device.type == "cpu"
        and query.dtype.itemsize == 2
        and query.shape[2] * key.shape[2] <= _FEW_SCORES
    )
