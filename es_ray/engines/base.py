"""The engine protocol: a model that answers as any member of a population, the centre or the base model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import EvaluationError
from es_ray.evolution.perturbation import Perturbation, Vector

CENTRE: Final = -1
BASE: Final = -2


def candidate_name(index: int, generation: int) -> str:
    """The name of a candidate in messages: a member's number, the centre or the base model."""
    who = {CENTRE: "the centre", BASE: "the base model"}.get(index, f"member {index}")
    return f"{who} of generation {generation}"


class Variant(NamedTuple):
    """The weights that answer a row.

    member: its index, or CENTRE or BASE; generation: of a member's noise; centre: index of the one it starts
    from among the call's centres; sigma_factor: multiplies a member's sigma. For BASE only member counts.
    """

    member: int
    generation: int = 0
    centre: int = 0
    sigma_factor: float = 1.0

    def __str__(self) -> str:
        scaled = "" if self.sigma_factor == 1.0 else f" at {self.sigma_factor:g} x sigma"
        return candidate_name(self.member, self.generation) + scaled


class Sampling(NamedTuple):
    """How a row's tokens are sampled: seed 0 to 2**31 - 1; temperature above 0; top_p in (0, 1].

    The same seed gives the same tokens for the same logits, whatever else is in the batch.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


class Row(NamedTuple):
    """A sequence to generate: who answers, the prompt's token ids, and how (greedily by default)."""

    variant: Variant
    prompt_ids: tuple[int, ...]
    sampling: Sampling | None = None


@dataclass(frozen=True)
class Completion:
    """What was generated: token ids, including the stop token, and why it ended.

    log_probs: of each token under the variant's full softmax at temperature 1, shape [tokens], if asked for.
    """

    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    log_probs: NDArray[np.float32] | None = None


OnCompletion = Callable[[int, Completion], None]
"""Called with a row's number and its completion, once for each row."""


@dataclass(frozen=True)
class EngineInfo:
    """What an engine reports about itself after loading its weights.

    mean_abs, frobenius: mean|W| and ||W||_F of each adapted module's base weight, in the layout's order, the
    latter for relative noise and for the drift (an engine without it runs with other kinds of noise);
    parameters: how many the model has; device, dtype: names for display, dtype as torch spells it.
    """

    mean_abs: tuple[float, ...]
    parameters: int
    device: str
    dtype: str
    frobenius: tuple[float, ...] = ()


def same_weights(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether mean|W|, or ||W||_F, of two engines agrees, up to the order of summation on their devices."""
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-4, atol=0)


class Engine(ABC):
    """A model on one device. Calls are made one at a time, from one thread.

    An engine holds no state of the evolution: centres come with each call, members are rebuilt from them. In
    form `merged` a centre is all updates so far (`es_ray.evolution.merged.History`), and an engine's weights
    are those after some of them: it adds what is missing, or begins again from the base model's.
    """

    info: EngineInfo
    beside: int = 0
    """How many more batches it can generate in parallel, each handed to `begin` first."""

    def begin(self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]) -> bool:
        """Start on rows in the background; returns whether it did.

        `generate` is called for them later, with the same objects. Only the time depends on it.
        """
        return False

    @abstractmethod
    def generate(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        *,
        log_probs: bool = False,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Completions of the rows, in their order.

        centres: what variants start from, each of shape [P], or a History; log_probs: whether completions
        include theirs; on_completion: called as soon as a row is known to be complete, in any order, before
        the call returns; an exception in it ends the call. Raises EvaluationError.
        """

    def log_probs(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        continuations: Sequence[Sequence[int]],
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given tokens after each row's prompt, under the full softmax at temperature 1.

        continuations: token ids for each row; returns one array for each, as long as it. Raises
        EvaluationError, also if the engine does not support it.
        """
        raise EvaluationError(f"{type(self).__name__} does not support log-probabilities")

    def noise_sum(
        self,
        perturbation: Perturbation,
        generation: int,
        advantages: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of `Perturbation.noise_sum`; an engine may sum on its own device."""
        return perturbation.noise_sum(generation, advantages, start, stop)

    def drift(self, centre: NDArray[np.float64], perturbation: Perturbation) -> float:
        """||W - W_0||_F / ||W_0||_F of a merged centre over all adapted matrices together, to six digits.

        Raises EvaluationError if the engine does not have this form.
        """
        raise EvaluationError(f"{type(self).__name__} does not have lora.form merged")

    def change(
        self, centre: NDArray[np.float64], perturbation: Perturbation, number: int
    ) -> NDArray[np.float32]:
        """W - W_0 of a merged centre, in the layout's module of that number, shape [out, in].

        Whose weights have answered last then, for `checksum`. Raises EvaluationError if the engine does not
        have this form.
        """
        raise EvaluationError(f"{type(self).__name__} does not have lora.form merged")

    def checksum(self) -> int | None:
        """Of the bits of the adapted weights that answered last, in form `merged`; None for other forms."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Free the device's memory and all other resources of the engine."""
