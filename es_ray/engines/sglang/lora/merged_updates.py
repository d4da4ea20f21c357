"""Updates of form `merged` on the GPU: noise drawn by Triton, added and served by one kernel a matrix."""

import torch
from torch import Tensor

from es_ray.engines.merged_weights import MatrixUpdate
from es_ray.evolution.merged import Update, by_direction
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant


class TritonUpdates:
    """`es_ray.engines.merged_weights.Updates` on a device; what an update's matrices share is made once."""

    def __init__(self, device: torch.device) -> None:
        from es_ray.engines.sglang.lora import merged_kernels, noise_kernels

        self._kernels, self._noise_kernels = merged_kernels, noise_kernels
        self._device = device
        self._update: Update | None = None
        self._shared: tuple[Tensor, Tensor, Tensor, PiecewiseConstant] | None = None

    def add(self, one: MatrixUpdate) -> None:
        """See Updates. Raises ValueError if sigma differs within B."""
        words, numbers, weights, scale = self._shared_by(one.update, one.perturbation)
        part, a, b = one.part, one.part.a, one.part.b
        sigma = scale.constant(b.start, b.stop)
        if sigma is None or scale.constant(a.start, a.stop) != 0 or a.stop != b.start:
            raise ValueError("form merged has one sigma for B and none for A, and B behind A")
        noise = self._noise_kernels.normals(words, numbers, a.start, b.stop)
        self._kernels.add(
            one.change, one.base, part.weight if one.serve else None, noise, weights, a.shape[0], a.shape[1],
            one.scaling * sigma, one.update.kept, part.rows, part.columns,
        )  # fmt: skip

    def _shared_by(
        self, update: Update, perturbation: Perturbation
    ) -> tuple[Tensor, Tensor, Tensor, PiecewiseConstant]:
        """The noise's words, the directions' numbers and weights, and sigma: the same for all matrices."""
        if self._update is not update or self._shared is None:
            noise = perturbation.noise
            weights = by_direction(update.coefficients, noise.antithetic)
            self._shared = (
                self._noise_kernels.words_of(noise.seed, update.generation, self._device),
                torch.arange(len(weights), device=self._device),
                torch.from_numpy(weights).float().to(self._device),
                perturbation.scale(update.generation),
            )
            self._update = update
        return self._shared
