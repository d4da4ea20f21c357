"""Sums over a base weight, from which the noise's scale follows: in float64, the same for any engine."""

import torch
from torch import Tensor

_AT_ONCE = 1 << 22
"""Entries converted to float64 at once."""


def abs_sum(weight: Tensor) -> float:
    """The sum of |W| over a matrix."""
    return float(weight.abs().sum(dtype=torch.float64))


def square_sum(weight: Tensor) -> float:
    """The sum of W^2 over a matrix, shape [out, in]: the square of ||W||_F."""
    rows = max(1, _AT_ONCE // weight.shape[-1])
    return sum(float(part.double().square().sum()) for part in weight.split(rows))
