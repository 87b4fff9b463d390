"""Attention inside shifted windows: what Swin's blocks are made of.

A window's padding is all zeros after the norm, so one zero token stands for every padded place:
projections run on the real tokens plus that one, and a single gather pads, rolls and cuts. On a GPU
without gradients, where bytes cost more than products, tokens are gathered before.
"""

import math
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from maskformer.configuration import MaskFormerSwinConfig
from maskformer.network.window_plans import (
    ALIGNED,
    WindowPlan,
    gather_plan,
    window_plan,
)

Tokens = Float[Tensor, "batch height width channels"]

# Numbers of bfloat16 that the CPU takes at once.
_VECTOR = 32

# CUDA's kernels of attention count windows on a side of their grid that ends here.
_MOST_WINDOWS = 65_535

# Of padding's numbers for each token. Up to there the products of padding take less time than the
# bytes that gathering first saves, on GPUs of some 200 operations for each byte of memory traffic.
_WORTH_BYTES = 512


def saves_bytes(tokens: Tokens) -> bool:
    """Tells whether the fewest bytes and launches count, in place of the fewest products."""
    is_plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return tokens.is_cuda and is_plain and not torch.is_autocast_enabled("cuda")


class WindowAttention(nn.Module):
    """Attention inside windows, with a learned bias for each relative position.

    Query, key and value are one matrix here and three in the published format: the state dict has
    the three, both ways.
    """

    def __init__(self, config: MaskFormerSwinConfig, *, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"a Swin stage's width must be a multiple of its heads, got {width} and "
                f"{num_heads}; see embed_dim and num_heads in the backbone's configuration"
            )
        self.window, self.num_heads = config.window_size, num_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * self.window - 1) ** 2, num_heads)
        )
        self._kept_bias: Tensor | None = None
        self.register_state_dict_post_hook(_split_qkv)
        self.register_load_state_dict_pre_hook(_join_qkv)

    def forward(self, tokens: Tokens, *, shift: int) -> Tokens:
        if saves_bytes(tokens):
            return self._forward_for_gpus(tokens, shift=shift)
        batch, height, width, _ = tokens.shape
        plan = window_plan(
            batch, height, width, window=self.window, shift=shift, device=tokens.device
        )
        strangers = plan.strangers
        if torch.compiler.is_compiling() or batch > 1:
            strangers = strangers.repeat(batch, 1, 1)
        qkv = self._projected(tokens, plan)
        kept = self._usable_kept_bias()
        bias = self._position_bias() if kept is None else kept[..., : self.window**2]
        bias = bias.to(qkv.dtype)
        # Not `len`, which an export for maps of any size would take for a constant.
        has_edges = strangers.shape[0] > 0
        edge_bias = bias + strangers[:, None].to(qkv.dtype) if has_edges else None
        parts = self._attend(qkv, bias, edge_bias)
        attended = torch.cat(parts) if len(parts) > 1 else parts[0]
        return attended.index_select(0, plan.place_of_token).view(tokens.shape)

    def _forward_for_gpus(self, tokens: Tokens, *, shift: int) -> Tokens:
        """Does the same with fewer bytes and launches, without gradients.

        Tokens are gathered into windows before each becomes three, unless the products of padding
        would take longer than that saves.
        """
        batch, height, width, channels = tokens.shape
        plan = gather_plan(
            height, width, window=self.window, shift=shift, device=tokens.device, dtype=tokens.dtype
        )
        flat = tokens.reshape(batch, -1, channels)
        num_added = (plan.num_places - flat.shape[1]) * channels
        is_first = num_added * tokens.element_size() <= _WORTH_BYTES * flat.shape[1]
        source = flat if is_first else self.qkv(flat)
        kept, parts = self._usable_kept_bias(), []
        bias = (_aligned(self._position_bias()) if kept is None else kept).to(tokens.dtype)
        for gather in plan.windows:
            of_windows = source.index_select(1, gather.token_of_place)
            if is_first:
                of_windows = self.qkv(_with_zeros(of_windows, gather.padding))
            else:
                _write_padding(of_windows, gather.padding, self.qkv.bias)
            if plan.strangers is not None and gather is plan.windows[-1]:
                bias = (bias + plan.strangers.expand(batch, -1, -1, -1, -1)).flatten(0, 1)
            qkv = of_windows.view(-1, self.window**2, 3, *self._head_shape)
            query, key, value = qkv.transpose(1, 3).unbind(2)
            attended = self._heads(query, key, value, bias[..., : self.window**2])
            parts.append(attended.view(batch, -1, channels))
        joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return joined.index_select(1, plan.place_of_token).view(tokens.shape)

    @property
    def _head_shape(self) -> tuple[int, int]:
        return self.num_heads, self.qkv.in_features // self.num_heads

    def _projected(
        self, tokens: Tokens, plan: WindowPlan
    ) -> Float[Tensor, "windows places 3 heads head_channels"]:
        """Projects the tokens, and one of zeros for all padding, then gathers them into windows."""
        flat = tokens.reshape(-1, tokens.shape[-1])
        padding = flat.new_zeros(1, tokens.shape[-1])
        qkv = self.qkv(torch.cat([flat, padding])).index_select(0, plan.token_of_place)
        return qkv.view(-1, self.window**2, 3, *self._head_shape)

    def _attend(
        self,
        qkv: Float[Tensor, "windows places 3 heads head_channels"],
        bias: Float[Tensor, "1 heads places places"],
        edge_bias: Float[Tensor, "edge_windows heads places places"] | None,
    ) -> list[Float[Tensor, "_ channels"]]:
        """Windows at the edge of a rolled map come last, and have strangers in them."""
        query, key, value = qkv.transpose(1, 3).unbind(2)
        if edge_bias is None:
            return [self._heads(query, key, value, bias)]
        inner = query.shape[0] - edge_bias.shape[0]
        parts = []
        if inner:
            parts.append(self._heads(query[:inner], key[:inner], value[:inner], bias))
        parts.append(self._heads(query[inner:], key[inner:], value[inner:], edge_bias))
        return parts

    def _heads(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if bias.requires_grad and query.dtype == torch.bfloat16 and query.is_cpu and not dropout:
            attended = _many_learning_attentions(query, key, value, bias)
        else:
            attended = _attention_in_pieces(query, key, value, bias, dropout=dropout)
        attended = attended.transpose(1, 2)
        if torch.compiler.is_exporting():
            # Other runtimes lay out what attention gives in another way than torch's own kernels.
            attended = attended.clone(memory_format=torch.contiguous_format)
        return attended.flatten(2).flatten(0, 1)

    def keep_position_bias(self) -> None:
        """Computes the bias once for all forward passes in evaluation, until weights are loaded."""
        with torch.inference_mode(False), torch.no_grad():
            self._kept_bias = _aligned(self._position_bias())

    def _usable_kept_bias(self) -> Float[Tensor, "1 heads places aligned_places"] | None:
        kept = self._kept_bias
        if self.training or kept is None or kept.device != self.qkv.weight.device:
            return None
        return kept

    def _position_bias(self) -> Float[Tensor, "1 heads places places"]:
        index = relative_positions(self.window, self.relative_position_bias_table.device)
        bias = self.relative_position_bias_table.index_select(0, index.flatten())
        return bias.view(1, *index.shape, self.num_heads).permute(0, 3, 1, 2).contiguous()


def _aligned(
    bias: Float[Tensor, "1 heads places places"],
) -> Float[Tensor, "1 heads places aligned_places"]:
    """Fills rows up, so that attention takes their beginnings without a copy."""
    return functional.pad(bias, (0, -bias.shape[-1] % ALIGNED))


def _with_zeros(
    windows: Float[Tensor, "batch places channels"], padding: Int[Tensor, " padded_places"]
) -> Float[Tensor, "batch places channels"]:
    return windows.index_fill_(1, padding, 0.0) if len(padding) else windows


def _write_padding(
    qkv: Float[Tensor, "batch places channels"],
    padding: Int[Tensor, " padded_places"],
    bias: Float[Tensor, " channels"] | None,
) -> None:
    """Writes what the projection makes of zeros."""
    if not len(padding):
        return
    if bias is None:
        qkv.index_fill_(1, padding, 0.0)
    else:
        qkv.index_copy_(1, padding, bias.expand(len(qkv), len(padding), -1))


def _attention_in_pieces(
    query: Float[Tensor, "windows heads places head_channels"],
    key: Float[Tensor, "windows heads places head_channels"],
    value: Float[Tensor, "windows heads places head_channels"],
    bias: Float[Tensor, "_ heads places places"],
    *,
    dropout: float,
) -> Float[Tensor, "windows heads places head_channels"]:
    """Calls scaled_dot_product_attention for as many windows as its kernels take at once."""
    attend = partial(functional.scaled_dot_product_attention, dropout_p=dropout)
    # A graph that is exported is for any number of windows: it has no pieces.
    if torch.compiler.is_exporting() or query.shape[0] <= _MOST_WINDOWS:
        return attend(query, key, value, attn_mask=bias)
    pieces = [part.split(_MOST_WINDOWS) for part in (query, key, value)]
    biases = [bias] * len(pieces[0]) if len(bias) == 1 else bias.split(_MOST_WINDOWS)
    return torch.cat(
        [attend(q, k, v, attn_mask=b) for q, k, v, b in zip(*pieces, biases, strict=True)]
    )


def _many_learning_attentions(
    query: Float[Tensor, "windows heads places head_channels"],
    key: Float[Tensor, "windows heads places head_channels"],
    value: Float[Tensor, "windows heads places head_channels"],
    bias: Float[Tensor, "_ heads places places"],
) -> Float[Tensor, "windows heads places head_channels"]:
    """Computes scaled_dot_product_attention where the bias learns in bfloat16 on the CPU.

    There it works in float32. Two batched products take two thirds of the time and half of the
    memory, with rows as long as whole vectors for the softmax.
    """
    more = -key.shape[2] % _VECTOR
    key, value = (functional.pad(part, (0, 0, 0, more)) for part in (key, value))
    bias = functional.pad(bias, (0, more), value=-math.inf)
    query = (query * query.shape[-1] ** -0.5).contiguous()
    return (query @ key.transpose(2, 3)).add_(bias).softmax(dim=-1) @ value


def relative_positions(window: int, device: torch.device) -> Int[Tensor, "places places"]:
    make = _make_positions if torch.compiler.is_compiling() else _cached_positions
    return make(window, device)


def _make_positions(window: int, device: torch.device) -> Int[Tensor, "places places"]:
    with torch.inference_mode(False):
        place = torch.arange(window * window, device=device)
        y, x = place // window, place % window
        dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
        return dy * (2 * window - 1) + dx


_cached_positions = lru_cache(maxsize=16)(_make_positions)

_QKV = ("query", "key", "value")


def _split_qkv(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: dict[str, Any]
) -> None:
    for kind in ("weight", "bias"):
        joined = state_dict.pop(f"{prefix}qkv.{kind}", None)
        if joined is not None:
            for name, part in zip(_QKV, joined.chunk(3), strict=True):
                state_dict[f"{prefix}{name}.{kind}"] = part


def _join_qkv(
    module: WindowAttention, state_dict: dict[str, Any], prefix: str, *_rest: Any
) -> None:
    module._kept_bias = None
    for kind in ("weight", "bias"):
        names = [f"{prefix}{name}.{kind}" for name in _QKV]
        if all(name in state_dict for name in names):
            state_dict[f"{prefix}qkv.{kind}"] = torch.cat([state_dict.pop(name) for name in names])
