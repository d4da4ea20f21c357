"""Updates of form `merged` on the GPU: noise drawn by Triton, added and served by one kernel a matrix."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from es_ray.engines.merged_weights import MatrixUpdate
from es_ray.evolution.merged import Update, by_direction
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant


class _Shared(NamedTuple):
    """The same for all matrices of an update.

    words: the noise's; numbers, weights: the directions', the weights divided by `largest`, a power of two,
    which leaves them exact and at most 1; scale: sigma.
    """

    words: Tensor
    numbers: Tensor
    weights: Tensor
    largest: float
    scale: PiecewiseConstant


class TritonUpdates:
    """`es_ray.engines.merged_weights.Updates` on a device; what an update's matrices share is made once."""

    def __init__(self, device: torch.device) -> None:
        from es_ray.engines.sglang.lora import merged_kernels, noise_kernels

        self._kernels, self._noise_kernels = merged_kernels, noise_kernels
        self._device = device
        self._update: Update | None = None
        self._shared: _Shared | None = None

    def add(self, one: MatrixUpdate) -> None:
        """See Updates. Raises ValueError if sigma differs within B."""
        shared = self._shared_by(one.update, one.perturbation)
        part, a, b = one.part, one.part.a, one.part.b
        sigma = shared.scale.constant(b.start, b.stop)
        if sigma is None or shared.scale.constant(a.start, a.stop) != 0 or a.stop != b.start:
            raise ValueError("form merged has one sigma for B and none for A, and B behind A")
        rank, width = a.shape
        factors = self._kernels.factors(
            shared.words, shared.numbers, shared.weights, a.start, rank, width, b.shape[0]
        )
        self._kernels.add(
            one.change, one.base, part.weight if one.serve else None, factors, width,
            one.scaling * sigma * shared.largest, one.update.kept, part.rows, part.columns,
        )  # fmt: skip

    def _shared_by(self, update: Update, perturbation: Perturbation) -> _Shared:
        if self._update is not update or self._shared is None:
            noise = perturbation.noise
            weights = by_direction(update.coefficients, noise.antithetic)
            _, exponent = np.frexp(np.abs(weights).max(initial=0.0))
            largest = 2.0 ** int(exponent)
            self._shared = _Shared(
                self._noise_kernels.words_of(noise.seed, update.generation, self._device),
                torch.arange(len(weights), device=self._device),
                torch.from_numpy(weights / largest).float().to(self._device),
                largest,
                perturbation.scale(update.generation),
            )
            self._update = update
        return self._shared
