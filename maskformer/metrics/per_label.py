"""One number for each label, nan where there was nothing to measure, and what they come to."""

import numpy as np
from jaxtyping import Float64, Shaped


def ratio(
    part: Shaped[np.ndarray, " labels"], whole: Shaped[np.ndarray, " labels"]
) -> Float64[np.ndarray, " labels"]:
    """The quotients, nan where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def mean(values: Float64[np.ndarray, " labels"]) -> float:
    """The mean of those that are numbers, nan if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
