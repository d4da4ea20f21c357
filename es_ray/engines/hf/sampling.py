"""Sampling of tokens that depends on a row's seed, the token's position and the logits alone.

By inverse CDF: the tokens' probabilities are accumulated in the order of their ids, and a uniform number
selects one of them. So logits that differ by rounding almost always give the same token.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_ray.engines.base import Sampling
from es_ray.evolution.noise import STREAM_SAMPLES, philox4x32

_ONE: Final = 2.0**52  # probabilities as integers, which have the same sum in any order


class Sampler:
    """Samples tokens for the rows of a batch that have a Sampling; the tokens of others stay unchanged."""

    def __init__(self, samplings: Sequence[Sampling | None], positions: int, device: torch.device) -> None:
        given = [(row, sampling) for row, sampling in enumerate(samplings) if sampling is not None]
        settings = [sampling for _, sampling in given]
        drawn = np.stack([uniforms(sampling.seed, positions) for sampling in settings])
        self._rows = torch.tensor([row for row, _ in given], device=device)
        self._uniforms = torch.from_numpy(drawn).to(device)
        self._temperature = torch.tensor(
            [s.temperature for s in settings], dtype=torch.float32, device=device
        )
        self._top_p = torch.tensor([s.top_p for s in settings], dtype=torch.float64, device=device)
        self._cut = any(sampling.top_p < 1 for sampling in settings)

    def draw(self, logits: Tensor, position: int, chosen: Tensor) -> None:
        """Write the sampled rows' tokens to chosen, shape [rows]; position: of the new token, from 0."""
        if len(self._rows):
            top_p = self._top_p if self._cut else None
            uniform = self._uniforms[:, position]
            chosen[self._rows] = sample(logits[self._rows], self._temperature, top_p, uniform)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows of the batch but these, by their current numbers."""
        number_of = {row: number for number, row in enumerate(rows)}
        before = self._rows.tolist()
        kept = [number for number, row in enumerate(before) if row in number_of]
        device = self._rows.device
        which = torch.tensor(kept, dtype=torch.long, device=device)
        self._rows = torch.tensor([number_of[before[k]] for k in kept], dtype=torch.long, device=device)
        self._uniforms, self._temperature = self._uniforms[which], self._temperature[which]
        self._top_p = self._top_p[which]


def uniforms(seed: int, positions: int) -> NDArray[np.float64]:
    """The numbers between 0 and 1 that sample a row's first tokens, shape [positions]."""
    zero, stream = np.array([0, STREAM_SAMPLES], dtype=np.uint32)
    words = philox4x32((np.arange(positions, dtype=np.uint32), zero, zero, stream), (seed, 0))
    return (words[0].astype(np.float64) + 0.5) * 2.0**-32


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor | None, uniform: Tensor) -> Tensor:
    """A token for each row, shape [rows].

    logits: shape [rows, vocabulary]; temperature (float32), top_p and uniform (float64): shape [rows].
    """
    logits = logits.float()
    logits = logits - logits.amax(dim=-1, keepdim=True)  # so that small temperatures cannot overflow
    probabilities = (logits / temperature[:, None]).softmax(dim=-1)
    mass = (probabilities.double() * _ONE).long()
    if top_p is not None:
        mass = _nucleus(mass, top_p)
    ends = mass.cumsum(dim=-1)
    target = (uniform * ends[:, -1]).long()
    drawn = torch.searchsorted(ends, target[:, None], right=True)[:, 0]
    return drawn.clamp(max=logits.shape[-1] - 1)  # a valid token even for NaN logits


def _nucleus(mass: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the most probable tokens whose mass reaches top_p; on ties the lowest ids are kept."""
    ordered, order = mass.sort(dim=-1, descending=True, stable=True)
    total = ordered.cumsum(dim=-1)
    inside = total - ordered < top_p[:, None] * total[:, -1:]
    return torch.zeros_like(mass).scatter(1, order, ordered * inside)
