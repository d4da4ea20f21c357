"""Checkpoints of a run of form `merged`: from where the updates of a centre need not be added again.

A generation's folder may have the changes D of the centre that its members start from. D is float32 and
updates are added in a fixed order, so from there on a replay has the bits of one from the beginning.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.merged import History
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.changes_file import ChangesFile, DamagedChanges, shapes_of
from es_ray.lora.layout import LoraLayout

log = logging.getLogger(__name__)

CHANGES: Final = "changes.safetensors"
"""The file's name in a generation's folder."""


def description(history: History, perturbation: Perturbation, layout: LoraLayout) -> dict[str, str]:
    """The metadata of a checkpoint: how long the history is, and digests of all that D is made from."""
    places = list(shapes_of(layout).items())  # in the order in which their noise is drawn
    noise = json.dumps([asdict(perturbation), layout.rank, places], sort_keys=True)
    return {
        "updates": str(len(history)),
        "history": hashlib.sha256(np.ascontiguousarray(history, dtype="<f8").data).hexdigest(),
        "noise": hashlib.sha256(noise.encode()).hexdigest(),
    }


class Checkpoint:
    """D after the first updates of a history. Raises DamagedChanges for what is none, or is damaged."""

    def __init__(self, path: Path, layout: LoraLayout) -> None:
        self._file = ChangesFile(path, layout)
        self.path, self.metadata = path, self._file.metadata
        if (
            not {"history", "noise"} <= self.metadata.keys()
            or not self.metadata.get("updates", "").isdecimal()
        ):
            raise DamagedChanges(f"{path}: torn or edited: it does not say what it is after")
        self.updates = int(self.metadata["updates"])
        """How many generations of the history it is after."""

    def matrix(self, number: int) -> NDArray[np.float32]:
        """D of the layout's module of that number, shape [out, in]; of the whole file only that is read."""
        return self._file.matrix(number)


@dataclass(frozen=True)
class Checkpoints:
    """Those of a run. folder: of its generations; without one, or on another machine, there are none."""

    folder: Path | None
    layout: LoraLayout

    def before(self, history: History, perturbation: Perturbation) -> Iterator[Checkpoint]:
        """Those that a history begins with, the latest first.

        A file that is damaged, or of another run, is named in a warning. Those of centres that the run went
        back from, or has reached since, are passed over.
        """
        found = []
        for path in [] if self.folder is None else sorted(self.folder.glob(f"[0-9]*/{CHANGES}")):
            try:
                checkpoint = Checkpoint(path, self.layout)
            except DamagedChanges as error:
                if path.exists():  # else it was pruned meanwhile
                    warn_of(error)
                continue
            wanted = description(history[: checkpoint.updates], perturbation, self.layout)
            if checkpoint.metadata["noise"] != wanted["noise"]:
                warn_of(DamagedChanges(f"{path}: of other noise, or of adapted weights in another order"))
            elif all(checkpoint.metadata[key] == value for key, value in wanted.items()):
                found.append(checkpoint)
        yield from sorted(found, key=lambda each: each.updates, reverse=True)


def warn_of(error: DamagedChanges) -> None:
    """Say which checkpoint is of no use, once in this process."""
    _warn(str(error))


@cache
def _warn(found: str) -> None:
    log.warning("%s; the updates are added again without it", found)
