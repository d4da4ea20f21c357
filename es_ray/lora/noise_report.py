"""How large a run's noise is: its sigma, and how much a member changes each matrix."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.config import InitConfig
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.lora.layout import LoraLayout
from es_ray.lora.scales import relative_sizes, sigma_of_b


@dataclass(frozen=True)
class Spread:
    """A quantity over the adapted matrices."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> "Spread":
        """values: one for each matrix."""
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)))


@dataclass(frozen=True)
class NoiseSize:
    """sigma: the noise's standard deviation; relative_size: of a member's change, as a share of ||W||_F, in
    the root mean square; None where the engine reports no norms.
    """

    sigma: Spread
    relative_size: Spread | None


@dataclass(frozen=True)
class NoiseReport:
    """The noise of the members of a run's start, and of generation 0 where that has noise of its own."""

    usual: NoiseSize
    first: NoiseSize | None = None

    def as_json(self) -> dict[str, Any]:
        """For environment.json."""
        found = asdict(self.usual)
        return found if self.first is None else found | {"generation_0": asdict(self.first)}


def noise_report(
    layout: LoraLayout, perturbation: Perturbation, init: InitConfig, frobenius: Sequence[float]
) -> NoiseReport:
    """frobenius: ||W||_F of each adapted module, empty where it is not known."""

    def size(sigma: PiecewiseConstant) -> NoiseSize:
        relative = Spread.of(relative_sizes(layout, sigma, init, frobenius)) if frobenius else None
        return NoiseSize(Spread.of(sigma_of_b(layout, sigma)), relative)

    first = perturbation.first_sigma
    return NoiseReport(size(perturbation.sigma), None if first is None else size(first))
