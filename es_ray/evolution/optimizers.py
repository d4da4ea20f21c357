"""Update rules: from a generation's noise sum to the direction of the centre's step.

The strategy steps theta <- theta + learning_rate * s * u (see `Strategy.step`); a rule computes u. A new rule
is one class: derive from Optimizer, and add it to OPTIMIZERS, or set `evolution.optimizer` to
`package.module:Class` or `path/to/file.py:Class`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.perturbation import Vector
from es_ray.evolution.pieces import in_pieces

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Direction:
    """u = vector / divisor, shape [P]; the step divides the learning rate by it, to round only once."""

    vector: Vector
    divisor: float = 1.0


class Optimizer(ABC):
    """An update rule. It is stateless: what it keeps from step to step is arrays, which the run stores.

    options: the keys of the `evolution` section that its constructor takes, besides `optimizer`; unset ones
    are left out of the call, and a key that the chosen rule does not take is an error. A generation whose
    rewards have no spread takes no step, and leaves the arrays as they are.
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


class Momentum(Optimizer):
    """Heavy ball: m <- momentum * m + g, u = m (Polyak 1964), g being the gradient estimate.

    Where gradients agree, steps grow to 1 / (1 - momentum) times a plain one: 10 at the default. State: `m`,
    float32, shape [P].
    """

    options = ("momentum",)

    def __init__(self, momentum: float = 0.9) -> None:
        self._momentum = np.float32(momentum)

    def initial(self, size: int) -> dict[str, NDArray[Any]]:
        """At rest."""
        return {"m": np.zeros(size, dtype=np.float32)}

    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The moving sum of gradient estimates."""
        old, m = arrays["m"], np.empty_like(noise_sum)

        def move(start: int, stop: int) -> None:
            np.multiply(self._momentum, old[start:stop], out=m[start:stop])
            m[start:stop] += noise_sum[start:stop] / np.float32(population)

        in_pieces(len(m), move)
        return Direction(m), {"m": m}


class Adam(Optimizer):
    """Adam with bias correction (arXiv 1412.6980, algorithm 1), as OpenAI-ES used it (arXiv 1703.03864).

    m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, u = m' / (sqrt(v') + eps) with
    m' = m / (1 - beta1^t), v' = v / (1 - beta2^t), g being the gradient estimate of step t = 1, 2, ... An
    entry of u is about 1, where one of g is about 1 / sqrt(population) under z-scores: the learning rate is
    smaller than that of `sgd` by this factor for steps of the same length. State: `m`, `v`, float32, shape
    [P]; `t`, int64, shape [1].
    """

    options = ("beta1", "beta2", "eps")

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self._beta1, self._beta2, self._eps = beta1, beta2, eps

    def initial(self, size: int) -> dict[str, NDArray[Any]]:
        """No moments, no steps."""
        zeros = np.zeros(size, dtype=np.float32)
        return {"m": zeros, "v": zeros.copy(), "t": np.zeros(1, dtype=np.int64)}

    def direction(
        self, noise_sum: Vector, population: int, arrays: Arrays
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The corrected first moment over the root of the second."""
        t = int(arrays["t"][0]) + 1
        m, v, u = (np.empty_like(noise_sum) for _ in range(3))
        correction = np.float32(1 - self._beta2**t)

        def move(start: int, stop: int) -> None:
            here = slice(start, stop)
            g = noise_sum[here] / np.float32(population)
            m[here] = _average(arrays["m"][here], g, self._beta1)
            v[here] = _average(arrays["v"][here], np.square(g), self._beta2)
            root = np.sqrt(v[here] / correction)
            root += np.float32(self._eps)
            np.divide(m[here], root, out=u[here])

        in_pieces(len(noise_sum), move)
        return Direction(u, 1 - self._beta1**t), {"m": m, "v": v, "t": np.array([t], dtype=np.int64)}


def _average(average: Vector, value: Vector, beta: float) -> Vector:
    """The moving average: beta * average + (1 - beta) * value, in float32."""
    result = np.float32(beta) * average
    result += np.float32(1 - beta) * value
    return result


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "momentum": Momentum, "adam": Adam}
