"""A merged model's weights in the scheduler's processes, as this process sees them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, seed_values, sigma_arrays
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.evolution.merged import Update
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.changes_file import DamagedChanges
from es_ray.lora.checkpoints import Checkpoint
from es_ray.lora.layout import AdaptedModule

UPDATES: Final = 32
"""Most updates in a call: a call costs 8 ms by itself, as long as one update of a 1.5B model."""
UPDATES_BYTES: Final = 8 << 20
"""Most bytes of a call's coefficients: a write into shared memory that is full kills the process."""


class SchedulerWeights:
    """`es_ray.engines.merged_centre.ChangedWeights` over all tensor parallel ranks; the updates travel.

    modules: the layout's. Raises RunError with the cause of what failed.
    """

    def __init__(self, client: SchedulerClient, modules: Sequence[AdaptedModule]) -> None:
        self._client, self._modules = client, modules
        self._sizes = np.array([m.in_features * m.out_features for m in modules], dtype=np.float64)
        self.seconds: dict[str, float] = {}
        """Seconds inside the scheduler since the last `begin`, by the kind of call."""

    def begin(self) -> None:
        """Set all changes to 0."""
        self.seconds = {}
        self._call("begin")

    def load(self, checkpoint: Checkpoint) -> None:
        """Set all changes to a checkpoint's, of which each rank reads its part; raises DamagedChanges."""
        about = {"path": str(checkpoint.path), "history": checkpoint.metadata["history"]}
        for answer in self._call("load", Message(about)):
            if "damaged" in answer.values:
                raise DamagedChanges(answer.values["damaged"])

    def whole_change(self, number: int) -> NDArray[np.float32]:
        """D of a module's matrix, put together of the ranks' parts, shape [out, in]."""
        module = self._modules[number]
        whole = np.empty((module.out_features, module.in_features), dtype=np.float32)
        places = self._call("place", Message({"number": number}))
        indices = [np.ix_(place.arrays["rows"], place.arrays["columns"]) for place in places]
        parts = [np.empty(rows.size * columns.size, dtype=np.float32) for rows, columns in indices]
        for start in range(0, max(part.size for part in parts), self._client.reply):
            wanted = {"number": number, "start": start, "stop": start + self._client.reply}
            for part, answer in zip(parts, self._call("change", Message(wanted)), strict=True):
                piece = answer.arrays["change"]
                part[start : start + piece.size] = piece
        for index, part in zip(indices, parts, strict=True):
            whole[index] = part.reshape(whole[index].shape)
        return whole

    def add(self, updates: Sequence[Update], perturbation: Perturbation, serve: bool) -> None:
        """Add updates to the changes, in order; serve: then serve the changed weights."""
        most = self._client.updates
        for first in range(0, len(updates), most):
            some = updates[first : first + most]
            last = serve and first + most >= len(updates)
            self._call(
                "add", Message({**seed_values(perturbation), "serve": last}, arrays_of(some, perturbation))
            )

    def write(self, base: bool) -> None:
        """Serve the base model's weights, or the changed ones; SGLang's cache of prompts is flushed."""
        self._call("write", Message({"base": base}))

    def squares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """||D||_F^2 and ||W_0||_F^2 of each matrix, by the ranks' means: some share heads."""
        answers = self._call("squares")
        changes, bases, entries = (
            np.sum([answer.arrays[name] for answer in answers], axis=0)
            for name in ("changes", "bases", "entries")
        )
        return changes / entries * self._sizes, bases / entries * self._sizes

    def checksum(self) -> int:
        """Of the bits that all ranks serve, below 2**61."""
        answers = self._call("checksum")
        found = sum(rank * answer.values["checksum"] for rank, answer in enumerate(answers, start=1))
        return int(found % (1 << 61))

    def _call(self, step: str, message: Message | None = None) -> list[Message]:
        message = message or Message()
        values: dict[str, Any] = {**message.values, "step": step}
        answers = self._client.call("merged", Message(values, message.arrays))
        took = max(answer.values["seconds"] for answer in answers)
        self.seconds[step] = self.seconds.get(step, 0.0) + took
        return answers


def most_updates(population: int) -> int:
    """Updates in a call: fewer for a large population, whose updates take long beside a call."""
    return max(1, min(UPDATES, UPDATES_BYTES // (8 * population)))


def arrays_of(updates: Sequence[Update], perturbation: Perturbation) -> dict[str, NDArray[Any]]:
    """Some updates, each with its generation's sigma, as arrays of a message."""
    sigmas = [sigma_arrays(perturbation.scale(update.generation)) for update in updates]
    joined = {name: np.concatenate([sigma[name] for sigma in sigmas]) for name in sigmas[0]}
    return joined | {
        "pieces": np.array([sigma["sigma_ends"].size for sigma in sigmas], dtype=np.int64),
        "generations": np.array([update.generation for update in updates], dtype=np.int64),
        "coefficients": np.stack([update.coefficients for update in updates]),
        "kept": np.array([update.kept for update in updates], dtype=np.float64),
    }
