"""Where a token is on its map, as sines and cosines: what attention adds to its keys."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

_TEMPERATURE = 10_000.0


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
