"""Which updates of form `merged` an engine's weights have: what is missing is added, or all begins again."""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, Row
from es_ray.evolution.merged import History, Update, begins_with, updates
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.changes_file import DamagedChanges
from es_ray.lora.checkpoints import Checkpoint, Checkpoints, warn_of

log = logging.getLogger(__name__)


class ChangedWeights(Protocol):
    """`es_ray.engines.merged_weights.MergedWeights`, in this process or in others."""

    def begin(self) -> None:
        """Set all changes D to 0."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Set D to a checkpoint's; raises DamagedChanges."""

    def add(self, updates: Sequence[Update], perturbation: Perturbation, serve: bool) -> None:
        """Add updates to D, in order; serve: then serve W_0 + D."""

    def whole_change(self, number: int) -> NDArray[np.float32]:
        """D of a matrix, all of it, shape [out, in]."""

    def write(self, base: bool) -> None:
        """Serve W_0, or W_0 + D."""

    def squares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """||D||_F^2 and ||W_0||_F^2 of each matrix: two of shape [matrices]."""

    def checksum(self) -> int:
        """Of the served weights' bits."""


class MergedCentre:
    """Brings weights to one history of updates or another.

    checkpoints: from which it may start where more than one update is missing.
    """

    def __init__(self, weights: ChangedWeights, checkpoints: Checkpoints | None = None) -> None:
        self._weights, self._checkpoints = weights, checkpoints
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
                self._stale, self._checksum = True, None  # should it fail
                self._weights.write(base=True)
                self._shows_base = True
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

    def change(self, history: History, perturbation: Perturbation, number: int) -> NDArray[np.float32]:
        """D of a matrix after these updates, shape [out, in]; the weights after them are served then."""
        self.show(history, perturbation)
        return self._weights.whole_change(number)

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
        if known is not None and (perturbation != self._perturbation or not begins_with(history, known)):
            known = None
        if known is not None and len(known) == len(history):
            return
        self._stale, self._history = True, None  # should a step fail
        if serve:  # it may have written some of the weights by then
            self._shows_base, self._checksum = False, None
        missing = list(updates(history, self._start(history, perturbation, known)))
        if missing:
            self._weights.add(missing, perturbation, serve)
            if serve:
                self._serves_changes()
        self._history, self._perturbation = history, perturbation

    def _start(self, history: History, perturbation: Perturbation, known: History | None) -> int:
        """How many generations of a history D is after when its missing updates are added.

        As many as it is after already (known), or more: a checkpoint's.
        """
        has = 0 if known is None else len(known)
        if self._checkpoints is not None and len(history) - has > 1:
            for checkpoint in self._checkpoints.before(history, perturbation):
                if checkpoint.updates <= has:
                    break
                try:
                    self._weights.load(checkpoint)
                except DamagedChanges as error:
                    warn_of(error)
                    known, has = None, 0
                    continue
                log.info("replaying from %s, after %d generations", checkpoint.path, checkpoint.updates)
                return checkpoint.updates
        if known is None:
            self._weights.begin()
        return has
