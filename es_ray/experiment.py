"""What stays fixed through a run, as any process can rebuild it from the configuration alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.evolution.noise import Noise
from es_ray.evolution.strategy import Strategy
from es_ray.lora.layout import LoraLayout, lora_layout
from es_ray.lora.scales import first_scale, initial_scale, noise_scale
from es_ray.models import ModelSource
from es_ray.tasks import TASKS, Example, Task, read_examples


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
        """The flat vector's layout on that model."""
        return lora_layout(self.source.skeleton(), self.config.lora)

    @cached_property
    def task(self) -> Task:
        """The task."""
        return TASKS[self.config.task.name]()

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        """The examples of the splits `train` and `test`."""
        train, test = self.config.task.train, self.config.task.test
        return {
            "train": read_examples(Path(train) if train else self.task.train_file),
            "test": read_examples(Path(test) if test else self.task.test_file),
        }

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each split's examples, so that a resumed run notices edited data."""
        return {
            split: hashlib.sha256(repr(examples).encode()).hexdigest()
            for split, examples in self.examples.items()
        }

    @cached_property
    def prompt_ids(self) -> dict[str, list[tuple[int, ...]]]:
        """Token ids of every prompt, by split, through the chat template."""
        return {
            split: [tuple(self.source.chat_ids(example.prompt)) for example in examples]
            for split, examples in self.examples.items()
        }

    def strategy(self, mean_abs: Sequence[float]) -> Strategy:
        """The evolution strategy; mean_abs: mean|W| of each adapted module, in the layout's order."""
        evolution, init = self.config.evolution, self.config.init
        return Strategy(
            noise=Noise(evolution.seed, evolution.antithetic),
            population=evolution.population,
            sigma=noise_scale(self.layout, evolution.noise, mean_abs),
            first_sigma=first_scale(self.layout, init),
            initial_std=initial_scale(self.layout, init),
            learning_rate=evolution.learning_rate,
            shaping=evolution.shaping,
            update_scale=evolution.update_scale,
        )

    def check(self) -> None:
        """Raise UserError for anything in the configuration that model and data do not allow."""
        _ = self.examples, self.source.architecture, self.layout
        longest = max(len(ids) for split in self.prompt_ids.values() for ids in split)
        room = getattr(self.source.architecture, "max_position_embeddings", None)
        if room is not None and longest + self.config.task.max_new_tokens > room:
            raise UserError(
                f"task.max_new_tokens: {self.config.task.max_new_tokens} after the longest prompt of "
                f"{longest} tokens exceeds the model's {room} positions; at most {room - longest} is allowed"
            )
