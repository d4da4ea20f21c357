"""Updates of form `merged` on the GPU: noise drawn by Triton, added and served by one kernel a matrix."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from es_ray.engines.merged_weights import Matrix
from es_ray.evolution.merged import Update, by_direction
from es_ray.evolution.perturbation import Perturbation

AT_ONCE: Final = 2048
"""Rows of A that are drawn at once: with B's, 180 MB for the largest matrix of a 7B model."""


class TritonUpdates:
    """`es_ray.engines.merged_weights.Updates` on a device.

    An update is two kernels a matrix, 400 of them in a model of 28 layers, which take longer to launch than
    to run below a few billion weights. So the second update of a size is recorded as a CUDA graph, and what
    differs from one update to the next is in tensors.
    """

    def __init__(self, device: torch.device) -> None:
        from es_ray.engines.sglang.lora import merged_kernels, noise_kernels

        self._kernels, self._noise_kernels = merged_kernels, noise_kernels
        self._device = device
        self._passes: dict[tuple[int, bool], _Pass] = {}
        self._scratch: dict[int, Tensor] = {}

    def add(
        self,
        matrices: Sequence[Matrix],
        scaling: float,
        update: Update,
        perturbation: Perturbation,
        serve: bool,
    ) -> None:
        """See Updates. Raises ValueError if sigma differs within B."""
        weights = by_direction(update.coefficients, perturbation.noise.antithetic)
        # the kernels' halves need weights of at most 1; a power of two leaves them exact
        _, exponent = np.frexp(np.abs(weights).max(initial=0.0))
        largest = 2.0 ** int(exponent)
        scale = perturbation.scale(update.generation)
        of_a, of_b = (
            scale.constants([tensor.start for tensor in tensors], [tensor.stop for tensor in tensors])
            for tensors in ([part.a for part, _, _ in matrices], [part.b for part, _, _ in matrices])
        )
        follows = all(part.a.stop == part.b.start for part, _, _ in matrices)
        if of_a.any() or np.isnan(of_b).any() or not follows:
            raise ValueError("form merged has one sigma for B and none for A, and B behind A")
        # 16 bytes apart: kernels are compiled for addresses that are multiples of 16, and for others
        factors = np.zeros((1 + len(matrices), 4), dtype=np.float32)
        factors[0], factors[1:] = update.kept, (scaling * largest * of_b.astype(np.float64))[:, None]
        key = len(weights), serve
        if key not in self._passes:
            if len(weights) not in self._scratch:
                self._scratch[len(weights)] = self._scratch_for(matrices, len(weights))
            self._passes[key] = _Pass(self._kernels, matrices, self._scratch[len(weights)], key)
        words = self._noise_kernels.words_of(perturbation.noise.seed, update.generation, self._device)
        self._passes[key].run(
            words,
            torch.from_numpy(weights / largest).float().to(self._device),
            torch.from_numpy(factors).to(self._device),
        )

    def _scratch_for(self, matrices: Sequence[Matrix], directions: int) -> Tensor:
        """Memory for the factors of any matrix that are needed at once; graphs keep its address."""
        sizes = [
            2 * min(directions, _at_once(rank)) * rank * (width + part.b.shape[0])
            for part, _, _ in matrices
            for rank, width in (part.a.shape,)
        ]
        return torch.empty(max(sizes), dtype=torch.float16, device=self._device)


class _Pass:
    """The kernels of an update over all matrices; key: how many directions it has, and whether it serves."""

    def __init__(
        self, kernels: Any, matrices: Sequence[Matrix], scratch: Tensor, key: tuple[int, bool]
    ) -> None:
        self._kernels, self._matrices, self._scratch = kernels, matrices, scratch
        directions, self._serve = key
        device = scratch.device
        self._numbers = torch.arange(directions, device=device)
        self._words = torch.zeros(3, dtype=torch.int64, device=device)
        self._weights = torch.zeros(directions, device=device)
        self._factors = torch.zeros(1 + len(matrices), 4, device=device)
        self._one = torch.ones(4, device=device)
        self._runs = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def run(self, words: Tensor, weights: Tensor, factors: Tensor) -> None:
        """Add an update: the noise's words, the directions' weights, then `kept` and each matrix's factor."""
        self._words.copy_(words)
        self._weights.copy_(weights)
        self._factors.copy_(factors)
        if self._graph is not None:
            self._graph.replay()
            return
        self._runs += 1
        if self._runs == 1 or not self._words.is_cuda:
            self._launch()  # also compiles
            return
        graph = torch.cuda.CUDAGraph()
        # other threads of the scheduler's process may call CUDA meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._launch()
        self._graph = graph
        graph.replay()

    def _launch(self) -> None:
        for (part, base, change), scale in zip(self._matrices, self._factors[1:], strict=True):
            rank, width = part.a.shape
            kept, at_once = self._factors[0], _at_once(rank)
            for first in range(0, len(self._numbers), at_once):
                some = slice(first, first + at_once)
                factors = self._kernels.factors(
                    self._words, self._numbers[some], self._weights[some],
                    part.a.start, rank, width, part.b.shape[0], self._scratch,
                )  # fmt: skip
                serves = self._serve and first + at_once >= len(self._numbers)
                self._kernels.add(
                    change, base, part.weight if serves else None, factors, width, scale, kept,
                    part.rows, part.columns,
                )  # fmt: skip
                kept = self._one


def _at_once(rank: int) -> int:
    """Directions that are drawn and added at once."""
    return max(AT_ONCE // rank, 1)
