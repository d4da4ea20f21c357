"""The factors of form `merged`'s updates, drawn by Triton on the GPU."""

from typing import Any

import torch
from torch import Tensor

from es_ray.evolution.merged import Update, by_direction
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.layout import LoraTensor


class TritonFactors:
    """`es_ray.lora.merged_changes.Factors` on a device; what an update's tensors share is made once."""

    def __init__(self, device: torch.device) -> None:
        from es_ray.engines.sglang.lora import noise_kernels

        self._kernels = noise_kernels
        self._device = device
        self._update: Update | None = None
        self._shared: tuple[Tensor, Tensor, Tensor] | None = None
        self._scale: Any = None

    def __call__(
        self, update: Update, perturbation: Perturbation, tensor: LoraTensor
    ) -> tuple[Tensor, Tensor]:
        """The noise of the directions' first members at a tensor's entries, times sigma where it is not 0."""
        if self._update is not update or self._shared is None:
            noise = perturbation.noise
            weights = by_direction(update.coefficients, noise.antithetic)
            self._shared = (
                self._kernels.words_of(noise.seed, update.generation, self._device),
                torch.arange(len(weights), device=self._device),
                torch.from_numpy(weights).float().to(self._device),
            )
            self._scale = perturbation.scale(update.generation)
            self._update = update
        words, numbers, weights_there = self._shared
        drawn = self._kernels.normals(words, numbers, tensor.start, tensor.stop)
        sigma = self._scale.constant(tensor.start, tensor.stop)
        if sigma is None:
            dense = torch.from_numpy(self._scale.dense(tensor.start, tensor.stop)).to(self._device)
            drawn *= torch.where(dense == 0, 1.0, dense)
        elif sigma != 0:
            drawn *= sigma
        return drawn.view(-1, *tensor.shape), weights_there
