"""Swin: pixels to feature maps by attention inside shifted windows.

Takes normalised images of any size; gives one map per stage, normed, before patch merging. Maps are
padded first and rolled after, as the published weights were trained; other codes roll first, and
differ wherever a map is no multiple of the window. `window_attention.py` cuts them into windows;
`pixel_decoder.py` takes the maps.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskformer.configuration import MaskFormerSwinConfig
from maskformer.network.activations import activation
from maskformer.network.recomputing import recomputed
from maskformer.network.window_attention import WindowAttention, relative_positions

Tokens = Float[Tensor, "batch height width channels"]


class SwinBackbone(nn.Module):
    """Swin with a norm on each stage that comes out."""

    def __init__(self, config: MaskFormerSwinConfig) -> None:
        super().__init__()
        self.model = _Swin(config)
        widths = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        self.hidden_states_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.stages_out = [index - 1 for index in config.out_indices or ()]
        if min(self.stages_out) < 0:
            raise ValueError(f"Swin gives stages, not its stem; got {config.out_features}")
        for stage in set(range(len(widths))) - set(self.stages_out):
            # Part of the format, and read by nobody: an optimiser must not wait for its gradient.
            self.hidden_states_norms[stage].requires_grad_(False)
        self.channels = [widths[stage] for stage in self.stages_out]
        self.width = widths[-1]
        _initialise(self, std=config.initializer_range)

    def forward(
        self, pixel_values: Float[Tensor, "batch colours _ _"]
    ) -> list[Float[Tensor, "batch _ _ _"]]:
        """The maps in channels-last memory: tokens as they lie."""
        maps = self.model(pixel_values)
        return [
            self.hidden_states_norms[stage](maps[stage]).permute(0, 3, 1, 2)
            for stage in self.stages_out
        ]

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        for stage in self.modules():
            if isinstance(stage, _Stage):
                stage.recompute = enabled

    def stages(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    def published_besides(self) -> dict[str, Tensor]:
        """Tensors of the published format that we derive or never use; other readers miss them."""
        some = next(self.parameters())
        besides = {
            "model.layernorm.weight": some.new_ones(self.width),
            "model.layernorm.bias": some.new_zeros(self.width),
        }
        for name, module in self.named_modules():
            if isinstance(module, WindowAttention):
                index = relative_positions(module.window, torch.device("cpu"))
                besides[f"{name}.relative_position_index"] = index.clone()
        return besides


class _Swin(nn.Module):
    def __init__(self, config: MaskFormerSwinConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return self.encoder(self.embeddings(pixel_values))


class _Embeddings(nn.Module):
    def __init__(self, config: MaskFormerSwinConfig) -> None:
        super().__init__()
        if config.use_absolute_embeddings:
            raise ValueError(
                "use_absolute_embeddings must be False: no published MaskFormer has them, and "
                "transformers cannot run one"
            )
        self.patch_embeddings = _PatchEmbeddings(config)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: Tensor) -> Tokens:
        return self.dropout(self.norm(self.patch_embeddings(pixel_values)))


class _PatchEmbeddings(nn.Module):
    def __init__(self, config: MaskFormerSwinConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.patch = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.projection = nn.Conv2d(
            config.num_channels, config.embed_dim, kernel_size=self.patch, stride=self.patch
        )

    def forward(self, pixel_values: Float[Tensor, "batch colours _ _"]) -> Tokens:
        # A convolution whose patches do not overlap is one matrix product, which leaves the tokens
        # in the order in which the blocks want them.
        patch_h, patch_w = self.patch
        batch, colours, height, width = pixel_values.shape
        padded = functional.pad(pixel_values, (0, -width % patch_w, 0, -height % patch_h))
        rows, columns = padded.shape[2] // patch_h, padded.shape[3] // patch_w
        patches = padded.view(batch, colours, rows, patch_h, columns, patch_w)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return functional.linear(patches, self.projection.weight.flatten(1), self.projection.bias)


class _Encoder(nn.Module):
    def __init__(self, config: MaskFormerSwinConfig) -> None:
        super().__init__()
        blocks = sum(config.depths)
        rates = [config.drop_path_rate * i / max(blocks - 1, 1) for i in range(blocks)]
        starts = [sum(config.depths[:stage]) for stage in range(len(config.depths))]
        self.layers = nn.ModuleList(
            _Stage(config, stage=stage, drop_path_rates=rates[start : start + depth])
            for stage, (start, depth) in enumerate(zip(starts, config.depths, strict=True))
        )

    def forward(self, tokens: Tokens) -> list[Tensor]:
        maps = []
        for stage in self.layers:
            stage_map, tokens = stage(tokens)
            maps.append(stage_map)
        return maps


class _Stage(nn.Module):
    def __init__(
        self, config: MaskFormerSwinConfig, *, stage: int, drop_path_rates: list[float]
    ) -> None:
        super().__init__()
        width = config.embed_dim * 2**stage
        last = stage == len(config.depths) - 1
        self.blocks = nn.ModuleList(
            _Block(
                config,
                width=width,
                num_heads=config.num_heads[stage],
                # Always on odd blocks, even where one window covers the whole map.
                shift=config.window_size // 2 if index % 2 else 0,
                drop_path_rate=rate,
            )
            for index, rate in enumerate(drop_path_rates)
        )
        self.downsample = nn.Identity() if last else _PatchMerging(width)
        self.recompute = False

    def forward(self, tokens: Tokens) -> tuple[Tokens, Float[Tensor, "batch _ _ _"]]:
        """The stage's map, and what the next stage begins with."""
        for block in self.blocks:
            tokens = (
                recomputed(block, tokens) if self.recompute and self.training else block(tokens)
            )
        return tokens, self.downsample(tokens)


class _Block(nn.Module):
    def __init__(
        self,
        config: MaskFormerSwinConfig,
        *,
        width: int,
        num_heads: int,
        shift: int,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * width)
        self.shift = shift
        self.layernorm_before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = _Attention(config, width=width, num_heads=num_heads)
        self.layernorm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = _Dense(width, hidden)
        self.activation = activation(config.hidden_act)
        self.output = _Dense(hidden, width, dropout=config.hidden_dropout_prob)
        self.drop_path = _DropPath(drop_path_rate)

    def forward(self, tokens: Tokens) -> Tokens:
        attended = self.attention(self.layernorm_before(tokens), shift=self.shift)
        tokens = tokens + self.drop_path(attended)
        widened = self.activation(self.intermediate(self.layernorm_after(tokens)))
        return tokens + self.drop_path(self.output(widened))


class _Attention(nn.Module):
    """The published names keep what attends and what projects apart."""

    def __init__(self, config: MaskFormerSwinConfig, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.self = WindowAttention(config, width=width, num_heads=num_heads)
        self.output = _Dense(width, width, dropout=config.attention_probs_dropout_prob)

    def forward(self, tokens: Tokens, *, shift: int) -> Tokens:
        return self.output(self.self(tokens, shift=shift))


class _PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch _ _ _"]:
        _, height, width, _ = tokens.shape
        tokens = functional.pad(tokens, (0, 0, 0, width % 2, 0, height % 2))
        tokens = tokens.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        # The lower of the four patches comes before the one to the right.
        tokens = tokens.permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(tokens))


class _Dense(nn.Module):
    def __init__(self, width_in: int, width_out: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.dense(tokens))


class _DropPath(nn.Module):
    """Leaves a whole image out of a residual branch, now and then, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Tokens) -> Tokens:
        if not self.training or self.rate == 0.0:
            return tokens
        keep = torch.rand(len(tokens), 1, 1, 1, device=tokens.device) >= self.rate
        return tokens * (keep / (1 - self.rate)).to(tokens.dtype)


def _initialise(backbone: nn.Module, *, std: float) -> None:
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=std)
