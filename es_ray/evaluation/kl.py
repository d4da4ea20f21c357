"""What a measurement of the centre's KL to the base model asks, and what is returned of it.

KL(centre || base) per token, estimated on completions that are sampled from the centre at temperature 1, its
full softmax: the mean over tokens of rho - 1 - log rho, rho = p_base / p_centre. Each term is at least 0, and
their expectation is the KL, as that of rho - 1 is 0 (Schulman 2020, "Approximating KL divergence", k3).

In form `merged` it is KL(base || centre), with rho = p_centre / p_base: `kl_forward`. An engine there cannot
have both models' weights at once, so a run samples the base model once, in generation 0, and each measurement
only reads these samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import CENTRE
from es_ray.evaluation.base_samples import BaseSample


def kl_key(form: str) -> str:
    """The name of the KL that is measured for a form of adapter (`lora.form`)."""
    return "kl_forward" if form == "merged" else "kl"


MOST_PROMPTS: Final = 16
"""Prompts of a measurement: it costs as many sampled completions, and a reading of each by the base model."""


@dataclass(frozen=True)
class KlPrompts:
    """The prompts that are completed for a measurement: their split, and their numbers in it.

    index, sigma_factor, generation: who completes them, the centre or a member, as in a Candidate. A member's
    KL to the base model is estimated as the centre's is. samples: the base model's of these prompts, for
    `kl_forward`.
    """

    split: str
    numbers: Sequence[int]
    index: int = CENTRE
    sigma_factor: float = 1.0
    generation: int | None = None
    samples: Sequence[BaseSample] | None = None

    def packed(self, generation: int) -> list[Any]:
        """The arguments of a worker's `kl` after the shared ones, plain values; generation: the call's."""
        generation = generation if self.generation is None else self.generation
        asked: list[Any] = [generation, self.split, list(self.numbers), self.index, self.sigma_factor]
        return asked if self.samples is None else [*asked, list(self.samples)]

    def __str__(self) -> str:
        return "the KL of the centre" if self.index == CENTRE else f"the KL of member {self.index}"


def kl_terms(other: NDArray[np.float32], sampler: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each token's rho - 1 - log rho, rho = p_other / p_sampler, from log-probabilities of sampled tokens."""
    log_rho = other.astype(np.float64) - sampler.astype(np.float64)
    return np.maximum(np.expm1(log_rho) - log_rho, 0.0)  # rounding may leave it at -1e-17


def kl_of(sums: NDArray[np.float64]) -> float:
    """The mean over all tokens; sums: of each prompt that of its terms, and its tokens, [prompts, 2]."""
    terms, tokens = sums.T.tolist()
    return math.fsum(terms) / math.fsum(tokens)
