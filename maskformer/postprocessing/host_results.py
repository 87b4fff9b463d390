"""From results on any device to ids and labels on the host, for all three tasks."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int32, Integer
from torch import Tensor

from maskformer.bilinear import CPU
from maskformer.postprocessing.segments import KeptQueries

SecondLabel: TypeAlias = tuple[int, float] | tuple[None, None]
"""A label and its score, or neither."""


def copy_to_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns the tensors on the CPU, in one copy of those that were elsewhere."""
    elsewhere = [tensor for tensor in tensors if tensor.device != CPU]
    if not elsewhere:
        return tensors
    flat = torch.cat([tensor.contiguous().view(torch.uint8).flatten() for tensor in elsewhere])
    parts = iter(flat.cpu().split([tensor.numel() * tensor.element_size() for tensor in elsewhere]))
    return tuple(
        tensor
        if tensor.device == CPU
        else next(parts).clone().view(tensor.dtype).view(tensor.shape)
        for tensor in tensors
    )


def ids_in_order(is_segment: Sequence[bool]) -> list[int]:
    """Counts the rows that are segments from 1; the others have 0."""
    ids, last = [], 0
    for counts in is_segment:
        last += bool(counts)
        ids.append(last if counts else 0)
    return ids


def replace_by_ids(
    numbers: Integer[Tensor, "height width"], ids: list[int]
) -> Int32[Tensor, "height width"]:
    """Returns the map with each number replaced by its id."""
    return torch.from_numpy(np.take(np.array(ids, np.int32), numbers.numpy(), mode="clip"))


def second_columns(kept: KeptQueries) -> tuple[Tensor, ...]:
    """Returns the second labels and their scores, or nothing where they are not known."""
    if kept.second_labels is None or kept.second_scores is None:
        return ()
    return kept.second_labels, kept.second_scores


def pair_second_labels(columns: Sequence[Tensor], *, count: int) -> list[SecondLabel]:
    """Pairs the `second_columns` on the host; `count` says how many rows there are without any."""
    if not columns:
        return [(None, None)] * count
    labels, scores = (column.tolist() for column in columns)
    return [
        (label, score) if score >= 0 else (None, None)
        for label, score in zip(labels, scores, strict=True)
    ]
