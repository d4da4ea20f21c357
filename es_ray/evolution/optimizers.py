"""Update rules: from a generation's noise sum to the direction in which the centre moves.

The strategy steps theta <- theta + learning_rate * s * u (see `Strategy.step`); a rule gives u. A new rule is
one class: derive from Optimizer, and enter it in OPTIMIZERS, or name it as `evolution.optimizer:
package.module:Class` or `path/to/file.py:Class`.
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
    """u = vector / divisor, shape [P]: the step divides, so that u and the learning rate are rounded once."""

    vector: Vector
    divisor: float = 1.0


class Optimizer(ABC):
    """An update rule. It holds no state: what it keeps from step to step is arrays that the run stores.

    options: the keys of the `evolution` section that its constructor takes, beside `optimizer`; those that
    are not set are left out of the call, and a key that the chosen rule does not take is an error.
    """

    options: ClassVar[tuple[str, ...]] = ()

    def initial(self, size: int) -> dict[str, NDArray[Any]]:
        """Its arrays before the first step, by name; size: entries of theta, P."""
        return {}

    @abstractmethod
    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The direction u, and its arrays after this step.

        noise_sum: sum_i Z_i noise_i over the members, float32, shape [P]; the gradient estimate is
        noise_sum / population. arrays: as `initial` or the last call returned them. Changes neither.
        """


class Sgd(Optimizer):
    """Plain steps: u is the gradient estimate (arXiv 2509.24372)."""

    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The noise sum over the population's size."""
        return Direction(noise_sum, population), {}


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd}
