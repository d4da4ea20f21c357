"""Standard deviations of noise and initial values for every entry, and the sizes of members that they give.

The size of a member's change of a matrix is the root mean square of ||member - centre||_F over noise and
initial values. With W + s B A, s = alpha / rank, and independent entries of mean square m_A, m_B:

    s^2 r in out (sigma_A^2 m_B + sigma_B^2 m_A + sigma_A^2 sigma_B^2).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from es_ray.config import InitConfig, NoiseConfig
from es_ray.errors import UserError
from es_ray.evolution.perturbation import PiecewiseConstant
from es_ray.lora.layout import LoraLayout

Sizes = NDArray[np.float64]


@dataclass(frozen=True)
class WeightSizes:
    """What engines report of each adapted module's base weight W, in the layout's order.

    mean_abs: mean|W|; frobenius: ||W||_F, empty where an engine or an older run does not have it.
    """

    mean_abs: Sequence[float]
    frobenius: Sequence[float] = ()


def noise_scale(
    layout: LoraLayout, config: NoiseConfig, weights: WeightSizes, init: InitConfig
) -> PiecewiseConstant:
    """Sigma by the kind of noise, 0 for A in forms `b` and `merged`; init: gives form `both` its start.

    `relative`: members' changes have that size, as a share of ||W||_F. `per-layer`: multiplier x fraction x
    mean|W| of the layer's adapted weights; `per-module`: of the module's. Raises UserError for relative noise
    without ||W||_F.
    """
    if config.kind == "relative":
        sigma = _relative_sigma(layout, config, weights.frobenius, init)
    elif config.kind == "constant":
        assert config.std is not None
        if layout.form == "both":
            return PiecewiseConstant((layout.size,), (config.std,))
        sigma = np.full(len(layout.modules), config.std)
    else:
        sigma = _sigma_of_means(layout, config, weights.mean_abs)
    if layout.form == "both":  # else A has none of its own
        ends = tuple(part.stop for part in layout.tensors if part.matrix == "B")
        return PiecewiseConstant(ends, tuple(float(value) for value in sigma))
    return PiecewiseConstant(
        tuple(part.stop for part in layout.tensors),
        tuple(float(value) for of_b in sigma for value in (0.0, of_b)),
    )


def _sigma_of_means(layout: LoraLayout, config: NoiseConfig, mean_abs: Sequence[float]) -> Sizes:
    """One value for each module."""
    weights = np.array([m.in_features * m.out_features for m in layout.modules], dtype=np.float64)
    means = np.asarray(mean_abs, dtype=np.float64)
    if config.kind == "per-layer":
        layers = np.array([module.layer for module in layout.modules])
        for layer in layout.layers:
            here = layers == layer
            means[here] = (means[here] * weights[here]).sum() / weights[here].sum()
    assert config.multiplier is not None and config.fraction is not None
    return config.multiplier * config.fraction * means


def _relative_sigma(
    layout: LoraLayout, config: NoiseConfig, frobenius: Sequence[float], init: InitConfig
) -> Sizes:
    """One value for each module, that of its B in forms `b` and `merged`."""
    if len(frobenius) != len(layout.modules):
        raise UserError(
            "evolution.noise.kind: relative needs the norms of the base weights, which this engine does not "
            "report (EngineInfo.frobenius); per-layer, per-module and constant do without"
        )
    assert isinstance(config.relative, float)  # `auto` is settled before
    inputs, outputs = _shapes(layout)
    target = config.relative * np.asarray(frobenius, dtype=np.float64)
    target /= layout.scaling * np.sqrt(layout.rank * inputs * outputs)
    if layout.form == "b":
        return target * np.sqrt(inputs)
    if layout.form == "merged":  # its A has entries of mean square 1
        return target
    mean_square = sum(_mean_squares(layout, init))
    root = np.sqrt(mean_square**2 + 4 * target**2)
    # (root - mean_square) / 2, which would cancel for small targets
    square = np.divide(2 * target**2, mean_square + root, out=np.zeros_like(root), where=root > 0)
    return np.sqrt(square)


def relative_sizes(
    layout: LoraLayout, sigma: PiecewiseConstant, init: InitConfig, frobenius: Sequence[float]
) -> Sizes:
    """The size of a member's change of each matrix as a share of ||W||_F, shape [modules]; inf where W is 0.

    sigma: of a generation that starts from the initial values.
    """
    inputs, outputs = _shapes(layout)
    of_a, of_b = _by_matrix(layout, sigma)
    m_a, m_b = _mean_squares(layout, init)
    square = of_a**2 * m_b + of_b**2 * m_a + of_a**2 * of_b**2
    size = layout.scaling * np.sqrt(layout.rank * inputs * outputs * square)
    norms = np.asarray(frobenius, dtype=np.float64)
    return np.divide(size, norms, out=np.where(size > 0, np.inf, 0.0), where=norms > 0)


def sigma_of_b(layout: LoraLayout, sigma: PiecewiseConstant) -> Sizes:
    """Sigma of each module's B, shape [modules]: of both its matrices in form `both`."""
    return _by_matrix(layout, sigma)[1]


def member_change(layout: LoraLayout, sigma: PiecewiseConstant) -> float:
    """Length of a member's change of all matrices together in form `merged`, in the root mean square."""
    inputs, outputs = _shapes(layout)
    return float(np.sqrt((_by_matrix(layout, sigma)[1] ** 2 * inputs * outputs).sum()))


def initial_scale(layout: LoraLayout, config: InitConfig) -> PiecewiseConstant:
    """Standard deviation of the initial A and B: std x scale, or 0 if theta starts at zero.

    In form `b`: 1 for A, whose rows are scaled to length 1 then, and 0 for B. In `merged` 0: it has none.
    """
    std = 0.0 if config.mode == "population" else config.std * config.scale
    of = {"A": std, "B": 0.0 if config.b == "zeros" else std}
    if layout.form == "b":
        of = {"A": 1.0, "B": 0.0}
    if layout.form == "merged":
        of = {"A": 0.0, "B": 0.0}
    ends = tuple(part.stop for part in layout.tensors)
    return PiecewiseConstant(ends, tuple(of[part.matrix] for part in layout.tensors))


def unit_rows(layout: LoraLayout) -> tuple[tuple[int, int, int], ...]:
    """Start, stop and length of a row of what starts with rows of length 1: each A in form `b`."""
    if layout.form != "b":
        return ()
    return tuple((p.start, p.stop, p.shape[1]) for p in layout.tensors if p.matrix == "A")


def first_scale(layout: LoraLayout, config: InitConfig) -> PiecewiseConstant | None:
    """Sigma of generation 0 under `mode: population`: its members are independent random adapters."""
    if layout.form != "both" or config.mode != "population":
        return None
    return PiecewiseConstant((layout.size,), (config.std * config.scale,))


def _mean_squares(layout: LoraLayout, init: InitConfig) -> tuple[Sizes, Sizes]:
    """The mean squares of A's and B's entries beside the noise of the other, each of shape [modules]."""
    if layout.form == "b":  # rows of length 1
        return 1.0 / _shapes(layout)[0], np.zeros(len(layout.modules))
    if layout.form == "merged":
        return np.ones(len(layout.modules)), np.zeros(len(layout.modules))
    of_a, of_b = _by_matrix(layout, initial_scale(layout, init))
    return of_a**2, of_b**2


def _by_matrix(layout: LoraLayout, values: PiecewiseConstant) -> tuple[Sizes, Sizes]:
    """The value at each module's A and at its B."""
    starts = np.array([part.start for part in layout.tensors])
    found = np.asarray(values.values, dtype=np.float64)[np.searchsorted(values.ends, starts, side="right")]
    return found[0::2], found[1::2]


def _shapes(layout: LoraLayout) -> tuple[Sizes, Sizes]:
    """Each module's inputs and outputs."""
    return (
        np.array([module.in_features for module in layout.modules], dtype=np.float64),
        np.array([module.out_features for module in layout.modules], dtype=np.float64),
    )
