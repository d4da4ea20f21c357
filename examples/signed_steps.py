r"""Your own update rule: every entry moves by the same amount, up or down (as in signSGD, arXiv 1802.04434).

    es-ray run --set evolution.optimizer=examples/signed_steps.py:SignedSteps \
               --set evolution.learning_rate=0.01

Only the process that runs `es-ray` reads the rule's file: workers sum noise, the driver takes the step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.optimizers import Direction, Optimizer


class SignedSteps(Optimizer):
    """u = sign(m), m being an average of gradient estimates: m <- momentum * m + (1 - momentum) * g."""

    options = ("momentum",)  # evolution.momentum may be set with this rule

    def __init__(self, momentum: float = 0.5) -> None:
        self._momentum = np.float32(momentum)

    def initial(self, size: int) -> dict[str, NDArray[Any]]:
        """The average starts at zero; the run stores it with theta, and a resumed run continues with it."""
        return {"average": np.zeros(size, dtype=np.float32)}

    def direction(
        self, noise_sum: NDArray[np.float32], population: int, arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[Direction, dict[str, NDArray[Any]]]:
        """The sign of the average as u, and the average to keep."""
        gradient = noise_sum / np.float32(population)
        average = self._momentum * arrays["average"] + (1 - self._momentum) * gradient
        return Direction(np.sign(average)), {"average": average}
