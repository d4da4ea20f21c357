"""A merged model's weights in the scheduler's processes, as this process sees them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, noise_values, sigma_arrays
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.evolution.merged import Update
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.layout import AdaptedModule


class SchedulerWeights:
    """`es_ray.engines.merged_centre.ChangedWeights` over all tensor parallel ranks; the updates travel.

    modules: the layout's. Raises RunError with the cause of what failed.
    """

    def __init__(self, client: SchedulerClient, modules: Sequence[AdaptedModule]) -> None:
        self._client = client
        self._sizes = np.array([m.in_features * m.out_features for m in modules], dtype=np.float64)
        self.seconds: dict[str, float] = {}
        """Seconds inside the scheduler since the last `begin`, by the kind of call."""

    def begin(self) -> None:
        """Set all changes to 0."""
        self.seconds = {}
        self._call("begin")

    def add(self, update: Update, perturbation: Perturbation, serve: bool) -> None:
        """Add an update to the changes; serve: then serve the changed weights."""
        noise = noise_values(perturbation, update.generation)
        arrays = sigma_arrays(perturbation.scale(update.generation))
        arrays["coefficients"] = update.coefficients
        self._call("add", Message(noise | {"kept": update.kept, "serve": serve}, arrays))

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
