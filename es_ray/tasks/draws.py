"""Which examples the candidates of a generation are asked: all of them, or a batch drawn from the seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from es_ray.config import Config
from es_ray.evolution.draws import PromptOrder
from es_ray.tasks.base import Example
from es_ray.tasks.batches import Batch

AUTO_BATCH: Final = 32
"""Training examples drawn for each generation by `task.batch: auto`, where there are more."""


@dataclass(frozen=True)
class ExampleDraws:
    """The batches of a run. examples: of each split."""

    config: Config
    examples: Mapping[str, Sequence[Example]]

    @property
    def size(self) -> int | None:
        """Training examples drawn for each generation, with `auto` resolved; None: all of them are asked."""
        size = self.config.task.batch
        if size == "auto":
            return AUTO_BATCH if len(self.examples["train"]) > AUTO_BATCH else None
        return size

    def batch(self, generation: int) -> Batch:
        """What the candidates of a generation answer. Of other splits, the first `evaluation.examples`."""
        task, size = self.config.task, self.size
        if size is None:
            return self._undrawn
        if task.batch_by == "generation":
            drawn = [self._order.numbers(generation * size, size)]
        else:
            pairs = self.config.evolution.population // 2
            starts = [(generation * pairs + pair) * size for pair in range(pairs)]
            drawn = [self._order.numbers(start, size) for start in starts]
        asked = {number: self.examples["train"][number] for numbers in drawn for number in numbers}
        return replace(
            self._undrawn,
            examples={**self._undrawn.examples, "train": asked},
            numbers={**self._undrawn.numbers, "train": drawn[0]},
            pairs=drawn if task.batch_by == "member" else None,
        )

    def first(self, counts: Mapping[str, int]) -> Batch:
        """The first examples of some splits."""
        examples = {
            split: {number: self.examples[split][number] for number in range(count)}
            for split, count in counts.items()
        }
        return Batch(
            examples,
            {split: list(asked) for split, asked in examples.items()},
            samples=self.config.task.samples,
        )

    @cached_property
    def _order(self) -> PromptOrder:
        return PromptOrder(self.config.evolution.seed, len(self.examples["train"]))

    @cached_property
    def _undrawn(self) -> Batch:
        """What is asked in each generation alike. One object: workers are sent it once."""
        most = self.config.evaluation.examples
        counts = {split: min(len(rows), most or len(rows)) for split, rows in self.examples.items()}
        return self.first(counts | {"train": len(self.examples["train"]) if self.size is None else 0})
