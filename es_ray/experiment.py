"""What is fixed during a run: from the configuration, and in workers what the driver sends of the data."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from es_ray.config import Config, EngineConfig
from es_ray.errors import RunError, UserError
from es_ray.evolution.configured import configured_optimizer, configured_schedule
from es_ray.evolution.merged import MergedStrategy
from es_ray.evolution.noise import Noise
from es_ray.evolution.optimizers import Optimizer
from es_ray.evolution.perturbation import Perturbation
from es_ray.evolution.strategy import Strategy
from es_ray.lora.checkpoints import Checkpoints
from es_ray.lora.layout import LoraLayout, lora_layout
from es_ray.lora.scales import (
    WeightSizes,
    first_scale,
    initial_scale,
    member_change,
    noise_scale,
    unit_rows,
)
from es_ray.models import ModelSource
from es_ray.tasks.base import Data, Example, Task, example_name
from es_ray.tasks.batches import Batch, Workload
from es_ray.tasks.data import examples_of, fingerprint, longest_prompts, own_data, shortest_prompts
from es_ray.tasks.draws import ExampleDraws
from es_ray.tasks.loading import load_task

SPLITS = ("train", "test", "validation")
MOST_TOKENISED = 1000
"""How many of a split's longest and of its shortest prompts are tokenised before a run."""

SOME_PROMPTS = 64
"""How many prompts, evenly spaced, say how long a prompt is."""


@dataclass(frozen=True)
class Experiment:
    """A configuration with the model, the layout and the examples that it names.

    given: the driver's workload, in a worker, where its machine may not have the data; splits: those whose
    examples are used, for a run all; optional: the ones among them that may be without data.
    """

    config: Config
    given: Workload | None = None
    splits: Sequence[str] = SPLITS
    optional: Sequence[str] = ("validation",)

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
        """The examples of each split; an optional one is there only if it has data.

        What has data is read before what lacks them is refused: a misspelt file is the first thing to know.
        Raises UserError, and RunError in a worker, which gets the examples of each batch with it.
        """
        if self.given is not None:
            raise RunError(
                f"engine.kind {self.config.engine.kind}: experiment.examples and what is made of them exist "
                "only with the driver; an engine gets experiment.workload"
            )
        found = {split: self._data(split) for split in self.splits}
        config = self.config.task
        own = [split for split in found if getattr(config, split) is None]  # which know no other columns
        examples = {
            split: examples_of(
                data, self.task, None if split in own else config.columns, config.system_prompt
            )
            for split, data in found.items()
            if data is not None
        }
        if missing := [split for split in found if split not in examples and split not in self.optional]:
            keys = " and ".join(f"task.{split}" for split in missing)
            options = " and ".join(f"--{split} FILE" for split in missing)
            raise UserError(
                f"{keys}: the task {self.config.task.name} has no data of its own; give {options}, or set "
                f"{keys}"
            )
        return examples

    def _data(self, split: str) -> Data | None:
        """The data of a split: the configured ones, or the task's own; None without either."""
        data: Data | None = getattr(self.config.task, split)
        return own_data(self.task, split) if data is None else data

    @cached_property
    def prompts(self) -> dict[str, int]:
        """The number of prompts of each split."""
        return {split: len(examples) for split, examples in self.examples.items()}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """A hash of each split's examples, so that a resumed run notices edited data."""
        return {split: fingerprint(examples) for split, examples in self.examples.items()}

    def token_ids(self, example: Example) -> tuple[int, ...]:
        """Token ids of an example's prompt; raises UserError if the model's tokenizer refuses it."""
        try:
            return tuple(self.source.chat_ids(example.messages))
        except UserError:
            raise
        except Exception as error:  # of one word for each token, say, without one for unknown words
            said = " ".join(str(error).split())
            raise UserError(
                f"{example_name(example)}: the tokenizer of {self.source.path} refuses the prompt: {said}"
            ) from error

    @cached_property
    def prompt_ids(self) -> dict[str, list[tuple[int, ...]]]:
        """Token ids of all prompts, by split: for tools and engines of small data."""
        return {split: list(map(self.token_ids, examples)) for split, examples in self.examples.items()}

    @cached_property
    def _draws(self) -> ExampleDraws:
        return ExampleDraws(self.config, self.examples)

    def with_batch_size(self) -> "Experiment":
        """With `task.batch: auto` resolved in the configuration, and the examples that were read for it."""
        if self.config.task.batch != "auto":
            return self
        return self.with_config(self.config.replace(task__batch=self._draws.size))

    def with_config(self, config: Config) -> "Experiment":
        """With another configuration of the same model, adapters and data, which are not read again."""
        changed = replace(self, config=config)
        same = ("source", "layout", "task", "examples", "prompts", "fingerprints")
        vars(changed).update({name: vars(self)[name] for name in same if name in vars(self)})  # cached ones
        return changed

    def with_other_data(self, config: Config, split: str) -> "Experiment":
        """With a configuration of another task, or of other data, of which one split is asked.

        For the same model and adapters.
        """
        changed = replace(self, config=config, splits=(split,))
        vars(changed).update({name: vars(self)[name] for name in ("source", "layout") if name in vars(self)})
        return changed

    def batch(self, generation: int) -> Batch:
        """What the candidates of a generation answer: drawn from the seed, or all that there is."""
        return self._draws.batch(generation)

    @cached_property
    def workload(self) -> Workload:
        """What the run's engines are to prepare for, in a worker and in the driver alike.

        A shard of a generation's candidates, and what centre and base model answer besides. Of what the final
        comparison asks beyond it, an engine makes the rest afterwards.
        """
        if self.given is not None:
            return self.given
        engine, batch = self.config.engine, self.batch(0)
        others = tuple(split for split in self.prompts if split != "train")
        return self.workload_of(engine, engine.shard * batch.rows(0, ("train",)) + 2 * batch.rows(0, others))

    def workload_of(self, engine: EngineConfig, rows: int) -> Workload:
        """So many completions, of which an engine is asked for at most `engine.rows` at once."""
        most = rows if engine.rows == "auto" else engine.rows
        first = next(iter(self.examples.values()))  # the training split's, where it is there
        some = range(0, len(first), math.ceil(len(first) / SOME_PROMPTS))
        longest = max(len(self.token_ids(first[number])) for number in some)
        return Workload(min(rows, most), self.token_ids(first[0]), longest)

    def whole_split(self, split: str) -> Batch:
        """All examples of a split."""
        return self.first_of(split, self.prompts[split])

    def first_of(self, split: str, most: int) -> Batch:
        """The first examples of a split, at most so many."""
        return self._draws.first({split: min(most, self.prompts[split])})

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Those of the run, from which an engine may replay updates of form `merged`."""
        folder = None if self.given is None else self.given.generations
        return Checkpoints(None if folder is None else Path(folder), self.layout)

    def strategy(self, mean_abs: Sequence[float], frobenius: Sequence[float] = ()) -> Strategy:
        """The evolution strategy.

        mean_abs, frobenius: mean|W| and ||W||_F of each adapted module, in the layout's order, as engines
        report them. Raises UserError for relative noise without the latter.
        """
        weights = WeightSizes(mean_abs, frobenius)
        evolution, init = self.config.evolution, self.config.init
        perturbation = Perturbation(
            noise=Noise(evolution.seed, evolution.antithetic),
            sigma=noise_scale(self.layout, evolution.noise, weights, init),
            first_sigma=first_scale(self.layout, init),
            schedule=configured_schedule(evolution.noise.schedule),
            fresh=self.layout.form == "merged",
        )
        rule: Callable[..., Strategy] = Strategy
        if perturbation.fresh:
            rule = partial(MergedStrategy, change_norm=member_change(self.layout, perturbation.sigma))
        return rule(
            perturbation=perturbation,
            population=evolution.population,
            initial_std=initial_scale(self.layout, init),
            learning_rate=evolution.learning_rate,
            shaping=evolution.shaping,
            update_scale=evolution.update_scale,
            optimizer=self.optimizer,
            learning_rate_schedule=configured_schedule(evolution.learning_rate_schedule),
            weight_decay=evolution.weight_decay,
            prompt_normalization=evolution.prompt_normalization,
            tie_correction=evolution.tie_correction,
            min_spread=evolution.min_spread,
            unit_rows=unit_rows(self.layout),
        )

    @cached_property
    def optimizer(self) -> Optimizer:
        """The update rule; raises UserError for an unknown name, and for a key that it does not take."""
        return configured_optimizer(self.config.evolution)

    def check(self) -> None:
        """Raise UserError for anything in the configuration that does not fit the model or the data.

        Of a large split only the longest and shortest prompts are tokenised, by characters; the workers check
        the rest.
        """
        _ = self.task, self.optimizer, self.examples, self.source.architecture, self.layout
        batch = self._draws.size
        if batch is not None and batch > self.prompts["train"]:
            raise UserError(f"task.batch: {batch} is more than the {self.prompts['train']} training examples")
        for split, examples in self.examples.items():
            numbers: Iterable[int] = range(len(examples))
            if len(examples) > MOST_TOKENISED:
                ends = longest_prompts, shortest_prompts
                numbers = {number for end in ends for number in end(examples, MOST_TOKENISED)}
            ids = {number: len(self.token_ids(examples[number])) for number in numbers}
            shortest, longest = (choose(ids, key=lambda number: ids[number]) for choose in (min, max))
            self.check_length(ids[shortest], examples[shortest], f"the shortest prompt of {split}")
            self.check_length(ids[longest], examples[longest], f"the longest prompt of {split}")

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its completion together, by the model and the engine's settings."""
        model = getattr(self.source.architecture.get_text_config(), "max_position_embeddings", None)
        given = self.config.engine.context_length
        return min((limit for limit in (model, given) if limit is not None), default=None)

    @property
    def usable_context(self) -> int | None:
        """`context_length` without what the engine keeps free of it."""
        limit = self.context_length
        return None if limit is None else limit - self.config.engine.reserved_positions

    def check_length(self, tokens: int, example: Example, which: str) -> None:
        """Raise UserError unless a prompt has tokens, and model and engine take it and a completion.

        tokens: the prompt's; which: what it is, for messages.
        """
        if tokens == 0:
            raise UserError(
                f"{example_name(example)}: the prompt has no tokens: the tokenizer or chat template of "
                f"{self.source.path} leaves nothing of it"
            )
        limit, engine = self.usable_context, self.config.engine
        if limit is None:
            return
        given = self.context_length == engine.context_length
        whose = "engine.sglang.context_length" if given else "the model"
        if engine.reserved_positions:
            whose += f" (of which SGLang keeps {engine.reserved_positions} free)"
        new_tokens = self.config.task.max_new_tokens
        if tokens >= limit:
            raise UserError(
                f"{example_name(example)}: the prompt has {tokens} tokens, which leaves none of the "
                f"{limit} positions of {whose} for an answer"
            )
        if tokens + new_tokens > limit:
            raise UserError(
                f"task.max_new_tokens: {new_tokens} after {which}, of {tokens} tokens "
                f"({example_name(example)}), exceeds the {limit} positions of {whose}; at most "
                f"{limit - tokens} is allowed"
            )
