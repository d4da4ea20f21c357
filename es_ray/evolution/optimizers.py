"""Update rules: from a generation's noise sum to the direction of the centre's step.

The strategy steps theta <- theta + learning_rate * s * u (see `Strategy.step`); a rule computes u. A new rule
is one class: derive from Optimizer, and add it to OPTIMIZERS, or set `evolution.optimizer` to
`package.module:Class` or `path/to/file.py:Class`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from es_ray.evolution.perturbation import Vector

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Direction:
    """u = vector / divisor, shape [P]; the step divides the learning rate by it, to round only once."""

    vector: Vector
    divisor: float = 1.0


class Optimizer(ABC):
    """An update rule. It is stateless: what it keeps from step to step is arrays, which the run stores.

    options: the keys of the `evolution` section that its constructor takes, besides `optimizer`; unset ones
    are left out of the call, and a key that the chosen rule does not take is an error.
    """

    options: ClassVar[tuple[str, ...]] = ()

    def initial(self, size: int) -> dict[str, NDArray[Any]]:
        """The arrays before the first step, by name; size: entries of theta, P."""
        return {}

    @abstractmethod
    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The direction u, and the arrays after this step.

        noise_sum: sum_i Z_i noise_i over the members, float32, shape [P]; the gradient estimate is
        noise_sum / population. arrays: as `initial` or the last call returned them. Changes neither.
        """


class Sgd(Optimizer):
    """Plain steps: u is the gradient estimate (arXiv 2509.24372)."""

    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The noise sum divided by the population's size."""
        return Direction(noise_sum, population), {}


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd}
