"""The pixel decoder's encoder: every place of the coarsest map looks at every other.

Takes the backbone's last map, gives one of the same size and the pyramid's width, which begins the
pyramid in its place and which the queries look at. Names and fields are those of DETR's encoder.
"""

from jaxtyping import Float
from torch import Tensor, nn

from maskformer.configuration import MaskFormerDetrConfig
from maskformer.network.activations import activation
from maskformer.network.attention import Attention, States, xavier
from maskformer.network.convolutions import xavier_convolution
from maskformer.network.positions import position_embedding


class PixelEncoder(nn.Module):
    """A projection to the pyramid's width, and the layers."""

    def __init__(self, *, in_channels: int, width: int, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        self.input_projection = xavier_convolution(in_channels, width, size=1)
        self.layers = nn.ModuleList(_Layer(width, config) for _ in range(config.encoder_layers))
        xavier(self.layers, gain=config.init_xavier_std)

    def forward(
        self, image_features: Float[Tensor, "batch _ height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        image_features = self.input_projection(image_features)
        _, channels, height, width = image_features.shape
        tokens = image_features.flatten(2).transpose(1, 2)
        positions = position_embedding(height, width, channels, tokens.device, tokens.dtype)
        for layer in self.layers:
            tokens = layer(tokens, positions=positions)
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class _Layer(nn.Module):
    def __init__(self, width: int, config: MaskFormerDetrConfig) -> None:
        super().__init__()
        self.self_attn = Attention(
            width, num_heads=config.encoder_attention_heads, dropout=config.attention_dropout
        )
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation = activation(config.activation_function)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, tokens: States, *, positions: Float[Tensor, "places channels"]) -> States:
        placed = tokens + positions
        attended, _ = self.self_attn(placed, placed, tokens)
        tokens = self.self_attn_layer_norm(tokens + self.dropout(attended))
        widened = self.activation_dropout(self.activation(self.fc1(tokens)))
        return self.final_layer_norm(tokens + self.dropout(self.fc2(widened)))
