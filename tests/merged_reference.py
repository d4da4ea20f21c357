"""Form merged once more, in float64 and as plainly as can be: whole matrices, one member at a time."""

import math
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from es_ray.config import Config
from es_ray.engines.base import BASE, CENTRE, Variant
from es_ray.evolution.noise import STREAM_NOISE, normals
from tests import plain_peft

Weights = dict[str, np.ndarray]


class Reference:
    """A model's adapted weights, and its members'. The noise is es-ray's, which has tests of its own."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._model: Any = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float32)
        layers = None if config.lora.layers == "all" else {int(n) for n in config.lora.layers.split(",")}
        self._first: dict[str, int] = {}
        self._base: Weights = {}
        position = 0
        for name, module in self._model.named_modules():
            numbers = [int(part) for part in name.split(".") if part.isdecimal()]
            chosen = numbers and (layers is None or numbers[0] in layers)
            if (
                isinstance(module, torch.nn.Linear)
                and chosen
                and name.split(".")[-1] in config.lora.target_modules
            ):
                self._first[f"{name}.weight"] = position
                position += config.lora.rank * (module.in_features + module.out_features)
                self._base[f"{name}.weight"] = module.weight.detach().double().numpy().copy()
        self._change = {name: np.zeros_like(weight) for name, weight in self._base.items()}

    def weights(self) -> Weights:
        """After the updates so far."""
        return {name: weight + self._change[name] for name, weight in self._base.items()}

    def direction(self, name: str, generation: int, member: int) -> np.ndarray:
        """By how much a member changes a matrix."""
        evolution, rank = self.config.evolution, self.config.lora.rank
        out, inputs = self._base[name].shape
        pair, sign = (member // 2, 1 - 2 * (member % 2)) if evolution.antithetic else (member, 1)
        first = self._first[name]
        numbers = normals(
            evolution.seed, generation, pair, STREAM_NOISE, first, first + rank * (inputs + out)
        ).astype(np.float64)
        a, b = numbers[: rank * inputs].reshape(rank, inputs), numbers[rank * inputs :].reshape(out, rank)
        sigma = evolution.noise.relative * np.linalg.norm(self._base[name]) / math.sqrt(inputs * out)
        return self._schedule(generation) * sigma * sign / math.sqrt(rank) * b @ a

    def _schedule(self, generation: int) -> float:
        schedule = self.config.evolution.noise.schedule
        if schedule.kind == "constant":
            return 1.0
        assert schedule.kind == "linear"
        return 1 + (schedule.to - 1) * min(generation / schedule.over, 1.0)

    def update(self, generation: int, advantages: np.ndarray) -> None:
        """Of a generation, from its advantages."""
        if not advantages.any():
            return
        evolution = self.config.evolution
        for name, change in self._change.items():
            total = sum(z * self.direction(name, generation, i) for i, z in enumerate(advantages))
            change *= 1 - evolution.weight_decay
            change += evolution.learning_rate / len(advantages) * total

    def member(self, variant: Variant) -> Weights:
        """The weights that answer as a variant."""
        if variant.member == BASE:
            return self._base
        if variant.member == CENTRE:
            return self.weights()
        return {
            name: weight + variant.sigma_factor * self.direction(name, variant.generation, variant.member)
            for name, weight in self.weights().items()
        }

    def model(self, variant: Variant) -> Any:
        """A plain transformers model of them, in float32."""
        model = plain_peft.base_model(self.config.model.path, torch.float32)
        model.load_state_dict(
            {name: torch.from_numpy(w).float() for name, w in self.member(variant).items()}, strict=False
        )
        return model

    def drift(self) -> float:
        """Length of the change beside that of the base model's weights."""
        change, base = (
            math.sqrt(sum(float(np.square(each).sum()) for each in part.values()))
            for part in (self._change, self._base)
        )
        return change / base
