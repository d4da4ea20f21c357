"""Standard deviations of noise and initial values for every entry of the flat vector."""

from collections.abc import Sequence

import numpy as np

from es_ray.config import InitConfig, NoiseConfig
from es_ray.evolution.strategy import PiecewiseConstant
from es_ray.lora.layout import LoraLayout


def noise_scale(layout: LoraLayout, config: NoiseConfig, mean_abs: Sequence[float]) -> PiecewiseConstant:
    """Sigma: multiplier x fraction x mean|W| of the layer's adapted weights, of the module's, or constant.

    mean_abs: mean|W| of each adapted module's base weight, in the layout's order.
    """
    if config.std is not None:
        return PiecewiseConstant((layout.size,), (config.std,))
    weights = np.array([m.in_features * m.out_features for m in layout.modules], dtype=np.float64)
    means = np.asarray(mean_abs, dtype=np.float64)
    if config.kind == "per-layer":
        layers = np.array([module.layer for module in layout.modules])
        for layer in layout.layers:
            here = layers == layer
            means[here] = (means[here] * weights[here]).sum() / weights[here].sum()
    assert config.multiplier is not None and config.fraction is not None  # as the kind is not constant
    sigma = config.multiplier * config.fraction * means
    ends = tuple(part.stop for part in layout.tensors if part.matrix == "B")
    return PiecewiseConstant(ends, tuple(float(value) for value in sigma))


def initial_scale(layout: LoraLayout, config: InitConfig) -> PiecewiseConstant:
    """Standard deviation of the initial A and B: std x scale, or 0 if theta starts at zero."""
    std = 0.0 if config.mode == "population" else config.std * config.scale
    ends = tuple(part.stop for part in layout.tensors)
    return PiecewiseConstant(
        ends, tuple(0.0 if p.matrix == "B" and config.b == "zeros" else std for p in layout.tensors)
    )


def first_scale(layout: LoraLayout, config: InitConfig) -> PiecewiseConstant | None:
    """Sigma of generation 0 under `mode: population`: its members are independent random adapters."""
    return (
        PiecewiseConstant((layout.size,), (config.std * config.scale,))
        if config.mode == "population"
        else None
    )
