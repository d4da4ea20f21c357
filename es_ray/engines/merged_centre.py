"""Which updates of form `merged` an engine's weights have: what is missing is added, or all begins again."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, Row
from es_ray.evolution.merged import History, Update, begins_with, updates
from es_ray.evolution.perturbation import Perturbation


class ChangedWeights(Protocol):
    """`es_ray.engines.merged_weights.MergedWeights`, in this process or in others."""

    def begin(self) -> None:
        """Set all changes D to 0."""

    def add(self, update: Update, perturbation: Perturbation, serve: bool) -> None:
        """Add an update to D; serve: then serve W_0 + D."""

    def write(self, base: bool) -> None:
        """Serve W_0, or W_0 + D."""

    def squares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """||D||_F^2 and ||W_0||_F^2 of each matrix: two of shape [matrices]."""

    def checksum(self) -> int:
        """Of the served weights' bits."""


class MergedCentre:
    """Brings weights to one history of updates or another."""

    def __init__(self, weights: ChangedWeights) -> None:
        self._weights = weights
        self._history: History | None = None
        self._perturbation: Perturbation | None = None
        self._shows_base, self._stale = True, False
        self._checksum: int | None = None

    def batches(
        self, centres: Sequence[Any], perturbation: Perturbation, rows: Sequence[Row]
    ) -> Iterator[list[int]]:
        """The numbers of rows that the same weights answer, which the model has by then."""
        empty = np.zeros((0, 0))
        by_history: dict[bytes, tuple[Any, list[int]]] = {}
        for number, row in enumerate(rows):
            history: Any = empty if row.variant.member == BASE else centres[row.variant.centre]
            by_history.setdefault(history.tobytes(), (history, []))[1].append(number)
        for history, numbers in sorted(by_history.values(), key=lambda each: len(each[0])):
            self.show(history, perturbation)
            yield numbers

    def show(self, history: History, perturbation: Perturbation) -> None:
        """Serve the weights after these updates; those already added are not added again."""
        if len(history) == 0:
            if not self._shows_base:
                self._weights.write(base=True)
                self._shows_base, self._checksum = True, None
            return
        self._move(history, perturbation, serve=True)
        if self._stale or self._shows_base:
            self._weights.write(base=False)
            self._serves_changes()

    def drift(self, history: History, perturbation: Perturbation) -> float:
        """||D||_F / ||W_0||_F over all adapted matrices together, to six digits."""
        if len(history) == 0:
            return 0.0
        self._move(history, perturbation, serve=False)
        changes, bases = self._weights.squares()
        return float(f"{math.sqrt(math.fsum(changes) / math.fsum(bases)):.6g}")

    def checksum(self) -> int:
        """Of the bits that are served now: equal weights have equal ones."""
        if self._checksum is None:
            self._checksum = self._weights.checksum()
        return self._checksum

    def _serves_changes(self) -> None:
        self._shows_base = self._stale = False
        self._checksum = None

    def _move(self, history: History, perturbation: Perturbation, serve: bool) -> None:
        """Bring the changes to a history, and serve them with the last update if there is any.

        Else the served weights are stale, until they are written.
        """
        known = self._history
        if known is None or perturbation != self._perturbation or not begins_with(history, known):
            self._history = None  # should a step fail
            self._weights.begin()
            known = history[:0]
        elif len(known) == len(history):
            return
        self._stale, self._history = True, None
        missing = list(updates(history, len(known)))
        for number, update in enumerate(missing, start=1):
            last = serve and number == len(missing)
            self._weights.add(update, perturbation, last)
            if last:
                self._serves_changes()
        self._history, self._perturbation = history, perturbation
