"""The examples that the candidates of one generation answer, as they travel to the workers, and how many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from es_ray.tasks.base import Example


@dataclass(frozen=True)
class Workload:
    """What engines need to know of the run and its data; a worker may not have their files.

    rows: completions that a generation, or an evaluation after the run, asks for at once; the comparison at
    a run's end may ask for more, which wait their turn. prompt_ids: token ids of the first training prompt.
    prompt_tokens: of the longest prompt among some. generations: absolute path of the run's generations, of
    which an engine may read checkpoints.
    """

    rows: int
    prompt_ids: tuple[int, ...]
    prompt_tokens: int
    generations: str | None = None


@dataclass(frozen=True)
class Batch:
    """Examples by split, and which of them each candidate answers.

    examples: by split and number in it, only those that are asked; numbers: of each split, those that all
    candidates answer; pairs: of the training split instead, those that each antithetic pair answers, and
    whoever is no member what the first pair does; samples: completions for each prompt.
    """

    examples: Mapping[str, Mapping[int, Example]]
    numbers: Mapping[str, Sequence[int]]
    pairs: Sequence[Sequence[int]] | None = None
    samples: int = 1

    def asked(self, index: int, split: str) -> Sequence[int]:
        """The numbers of the examples that a candidate answers; index: a member's, negative for others."""
        if self.pairs is not None and split == "train":
            return self.pairs[max(index, 0) // 2]
        return self.numbers[split]

    def rows(self, index: int, splits: Sequence[str]) -> int:
        """How many completions a candidate makes for these splits."""
        return sum(len(self.asked(index, split)) for split in splits) * self.samples
