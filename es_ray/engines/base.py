"""What an engine is: a model that answers as any member of a population, the centre or the base model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.strategy import Strategy, Vector

CENTRE: Final = -1
BASE: Final = -2


def candidate_name(index: int, generation: int) -> str:
    """How messages name a candidate: a member's number, the centre or the base model."""
    who = {CENTRE: "the centre", BASE: "the base model"}.get(index, f"member {index}")
    return f"{who} of generation {generation}"


@dataclass(frozen=True)
class Row:
    """A sequence to generate: who answers (a member's index, CENTRE or BASE), and the prompt's token ids."""

    candidate: int
    prompt_ids: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """What was generated: token ids, the stop token among them, and why it ended."""

    token_ids: list[int]
    finish: Literal["stop", "length"]


@dataclass(frozen=True)
class EngineInfo:
    """What an engine tells about itself once its weights are loaded.

    mean_abs: mean|W| of each adapted module's base weight, in the layout's order.
    """

    mean_abs: tuple[float, ...]
    parameters: int
    device: str
    dtype: str


def same_weights(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether mean|W| of two engines is the same but for the order of summation on their devices."""
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-4, atol=0)


class Engine(ABC):
    """A model on one device. Calls are made one at a time."""

    info: EngineInfo

    @abstractmethod
    def generate(
        self, theta: Vector, strategy: Strategy, generation: int, rows: Sequence[Row]
    ) -> list[Completion]:
        """Greedy completions of the rows, in their order.

        theta: the centre that the generation starts from, shape [P]. Raises EvaluationError.
        """

    def tell(
        self,
        theta: Vector,
        strategy: Strategy,
        generation: int,
        advantages: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of the next centre; an engine with a faster device may do it there."""
        return strategy.tell(theta, generation, advantages, start, stop)

    @abstractmethod
    def close(self) -> None:
        """Give back the device's memory and whatever else the engine holds."""
