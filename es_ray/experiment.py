"""What is fixed during a run, and which any process can rebuild from the configuration alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.evolution.noise import Noise
from es_ray.evolution.optimizers import OPTIMIZERS, Optimizer
from es_ray.evolution.perturbation import Perturbation
from es_ray.evolution.strategy import Strategy
from es_ray.imports import instance_of, resolve
from es_ray.lora.layout import LoraLayout, lora_layout
from es_ray.lora.scales import first_scale, initial_scale, noise_scale
from es_ray.models import ModelSource
from es_ray.tasks.base import Data, Example, Task
from es_ray.tasks.data import examples_of, fingerprint
from es_ray.tasks.loading import load_task

SPLITS = ("train", "test", "validation")
OPTIMIZER_KEYS = ("momentum", "beta1", "beta2", "eps")
"""Keys of the `evolution` section that only some optimizers take."""


@dataclass(frozen=True)
class Experiment:
    """A configuration with the model, the layout and the examples that it names."""

    config: Config

    @cached_property
    def source(self) -> ModelSource:
        """The model's files."""
        return ModelSource.of(self.config.model)

    @cached_property
    def layout(self) -> LoraLayout:
        """The flat vector's layout for that model."""
        return lora_layout(self.source.skeleton(), self.config.lora)

    @cached_property
    def task(self) -> Task:
        """The task; raises UserError for an unknown name, and for what is no task."""
        return load_task(self.config.task.name, self.config.task.options)

    @cached_property
    def examples(self) -> dict[str, Sequence[Example]]:
        """The examples of each split; `validation` is there only if the run has one."""
        found = {split: self._data(split) for split in SPLITS}
        config = self.config.task
        own = [split for split in SPLITS if getattr(config, split) is None]  # which know no other columns
        return {
            split: examples_of(
                data, self.task, None if split in own else config.columns, config.system_prompt
            )
            for split, data in found.items()
            if data is not None
        }

    def _data(self, split: str) -> Data | None:
        """The data of a split: the configured ones, or the task's own; None for a run without validation."""
        data: Data | None = getattr(self.config.task, split)
        if data is None:
            data = getattr(self.task, split)
        if data is None and split != "validation":
            raise UserError(f"task.{split}: the task {self.config.task.name} has no data of its own; set it")
        return data

    @cached_property
    def prompts(self) -> dict[str, int]:
        """The number of prompts of each split."""
        return {split: len(examples) for split, examples in self.examples.items()}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each split's examples, so that a resumed run notices edited data."""
        return {split: fingerprint(examples) for split, examples in self.examples.items()}

    @cached_property
    def prompt_ids(self) -> dict[str, list[tuple[int, ...]]]:
        """Token ids of every prompt in the chat template, by split."""
        return {
            split: [tuple(self.source.chat_ids(example.messages)) for example in examples]
            for split, examples in self.examples.items()
        }

    def strategy(self, mean_abs: Sequence[float]) -> Strategy:
        """The evolution strategy; mean_abs: mean|W| of each adapted module, in the layout's order."""
        evolution, init = self.config.evolution, self.config.init
        perturbation = Perturbation(
            noise=Noise(evolution.seed, evolution.antithetic),
            sigma=noise_scale(self.layout, evolution.noise, mean_abs),
            first_sigma=first_scale(self.layout, init),
        )
        return Strategy(
            perturbation=perturbation,
            population=evolution.population,
            initial_std=initial_scale(self.layout, init),
            learning_rate=evolution.learning_rate,
            shaping=evolution.shaping,
            update_scale=evolution.update_scale,
            optimizer=self.optimizer,
        )

    @cached_property
    def optimizer(self) -> Optimizer:
        """The update rule; raises UserError for an unknown name, and for a key that it does not take."""
        evolution = self.config.evolution
        rule = resolve("evolution.optimizer", evolution.optimizer, OPTIMIZERS)
        given = {key: getattr(evolution, key) for key in OPTIMIZER_KEYS}
        given = {key: value for key, value in given.items() if value is not None}
        for key, value in given.items():
            options = getattr(rule, "options", ())
            if key not in options:
                takes = f"it takes {', '.join(options)}" if options else "it takes none of these keys"
                chosen = f"the optimizer {evolution.optimizer}"
                raise UserError(f"evolution.{key}: {value!r} has no effect on {chosen}; {takes}")
        name = evolution.optimizer
        return instance_of(Optimizer, "evolution.optimizer", name, rule, given)  # type: ignore[type-abstract]

    def check(self) -> None:
        """Raise UserError for anything in the configuration that does not fit the model or the data."""
        _ = self.task, self.optimizer, self.examples, self.source.architecture, self.layout
        limit = getattr(self.source.architecture, "max_position_embeddings", None)
        if limit is None:
            return
        new_tokens = self.config.task.max_new_tokens
        for split, prompts in self.prompt_ids.items():
            longest = max(range(len(prompts)), key=lambda number: len(prompts[number]))
            tokens, where = len(prompts[longest]), self.examples[split][longest].where
            if tokens >= limit:
                raise UserError(
                    f"{where}: the prompt has {tokens} tokens, which leaves none of the model's {limit} "
                    "positions for an answer"
                )
            if tokens + new_tokens > limit:
                raise UserError(
                    f"task.max_new_tokens: {new_tokens} after the longest prompt of {tokens} tokens "
                    f"({where}) exceeds the model's {limit} positions; at most {limit - tokens} is allowed"
                )
