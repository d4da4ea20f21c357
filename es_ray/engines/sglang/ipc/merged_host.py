"""The scheduler process's side of form `merged`: its rank's weights under updates."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.engines.merged_weights import MergedWeights
from es_ray.engines.sglang.ipc.adapted_modules import AdaptedModules
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.evolution.merged import Update
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.lora.changes_file import DamagedChanges
from es_ray.lora.checkpoints import Checkpoint
from es_ray.lora.layout import LoraLayout

ATTRIBUTE = "_es_ray_merged"


def reserve_memory(layout: LoraLayout) -> None:
    """Take the memory of a model's changes before SGLang fills the GPU with its cache.

    SGLang measures what is left after its LoRA manager is made, so the cache becomes smaller by that.
    """
    from sglang.srt.model_executor.model_runner import ModelRunner

    original = ModelRunner.init_lora_manager

    def init_lora_manager(runner: Any, *args: Any, **kwargs: Any) -> None:
        original(runner, *args, **kwargs)
        weights = merged_weights(AdaptedModules(runner.lora_manager, layout), layout)
        weights.reserve()
        setattr(runner.lora_manager, ATTRIBUTE, weights)

    ModelRunner.init_lora_manager = init_lora_manager


def merged_weights(modules: AdaptedModules, layout: LoraLayout) -> MergedWeights:
    """The weights of a rank; the noise of updates is drawn on their device."""
    weights = modules.weights()
    device = weights[0].weight.device
    if device.type != "cuda":
        return MergedWeights(weights, layout.scaling)
    from es_ray.engines.sglang.lora.merged_updates import TritonUpdates

    return MergedWeights(weights, layout.scaling, TritonUpdates(device))


class MergedHost:
    """Answers the calls of `es_ray.engines.sglang.ipc.merged_client.SchedulerWeights` on one rank."""

    def __init__(self, weights: MergedWeights, layout: LoraLayout, synchronize: Callable[[], None]) -> None:
        self._weights, self._layout = weights, layout
        self._synchronize = synchronize

    def answer(self, message: Message) -> Message:
        """Do what the message's `step` names; the answer has the seconds that it took."""
        started = time.perf_counter()
        found = getattr(self, f"_{message.values['step']}")(message)
        self._synchronize()  # the forward pass runs on another stream
        values: Mapping[str, Any] = found.values
        return Message({**values, "seconds": time.perf_counter() - started}, found.arrays)

    def _begin(self, _: Message) -> Message:
        self._weights.begin()
        return Message()

    def _load(self, message: Message) -> Message:
        values = message.values
        try:
            checkpoint = Checkpoint(Path(values["path"]), self._layout)
            if checkpoint.metadata["history"] != values["history"]:
                raise DamagedChanges(f"{checkpoint.path}: was replaced meanwhile")
            self._weights.load(checkpoint)
        except DamagedChanges as error:
            return Message({"damaged": str(error)})
        return Message()

    def _place(self, message: Message) -> Message:
        rows, columns = self._weights.place(message.values["number"])
        return Message(arrays={"rows": rows.astype(np.int32), "columns": columns.astype(np.int32)})

    def _change(self, message: Message) -> Message:
        """Entries [start, stop) of this rank's part of D of a matrix."""
        values = message.values
        part = self._weights.change(values["number"]).reshape(-1)[values["start"] : values["stop"]]
        return Message(arrays={"change": part.cpu().numpy()})

    def _add(self, message: Message) -> Message:
        values, arrays = message.values, message.arrays
        noise = Noise(int(values["seed"]), values["antithetic"])
        places = np.cumsum(arrays["pieces"])[:-1]
        ends, sigmas = (np.split(arrays[name], places) for name in ("sigma_ends", "sigma_values"))
        last = len(ends) - 1
        for number, (generation, kept) in enumerate(
            zip(arrays["generations"].tolist(), arrays["kept"].tolist(), strict=True)
        ):
            # sigma is that of this generation
            sigma = PiecewiseConstant(tuple(ends[number].tolist()), tuple(sigmas[number].tolist()))
            update = Update(generation, arrays["coefficients"][number], kept)
            serve = values["serve"] and number == last
            self._weights.add([update], Perturbation(noise, sigma, fresh=True), serve)
        return Message()

    def _write(self, message: Message) -> Message:
        self._weights.write(message.values["base"])
        return Message()

    def _squares(self, _: Message) -> Message:
        changes, bases = self._weights.squares()
        return Message(arrays={"changes": changes, "bases": bases, "entries": self._weights.entries()})

    def _checksum(self, _: Message) -> Message:
        return Message({"checksum": self._weights.checksum()})
