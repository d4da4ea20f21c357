"""How far adapters move a model: the size of their product beside that of the weights they are added to."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.lora.layout import LoraLayout

MOST_ROWS: Final = 16
"""Of more rows the products are BLAS's, which is ten times as fast on one core. But it takes all cores, and
waits for the slowest: 0.02 to 1.3 s for single rows, where others used the cores."""


def relative_drift(layout: LoraLayout, theta: NDArray[np.float32], norms: Sequence[float]) -> float:
    """||DeltaW||_F / ||W||_F over all adapted matrices together, with DeltaW = alpha / rank * B A.

    theta: shape [P]; norms: ||W||_F of each adapted module's base weight, in the layout's order. Of both,
    the root of the summed squares over the matrices. Rounded to six digits, so that it has the same bytes
    whatever the order of summation on a machine. Raises ValueError for another number of norms.
    """
    if len(norms) != len(layout.modules):
        raise ValueError(f"{len(norms)} norms for {len(layout.modules)} adapted modules")
    squares = [_product_square(a, b) for a, b in layout.matrices(theta).values()]
    ratio = math.sqrt(math.fsum(squares) / math.fsum(norm * norm for norm in norms))
    return float(f"{layout.scaling * ratio:.6g}")


def _product_square(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """||B A||_F^2 from the Gram matrices of both, which are only rank x rank."""
    return max(float((_gram(a) * _gram(b.T)).sum()), 0.0)


def _gram(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """R R^T, in float64."""
    wide = np.ascontiguousarray(rows, dtype=np.float64)
    if len(wide) > MOST_ROWS:
        return wide @ wide.T
    return np.einsum("ik,jk->ij", wide, wide)
