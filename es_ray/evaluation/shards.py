"""What workers are given to evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

from es_ray.engines.base import BASE, CENTRE, candidate_name
from es_ray.tasks.batches import Batch


@dataclass(slots=True)  # not frozen: creating thousands would be slow
class Candidate:
    """What to evaluate (a member's index, CENTRE or BASE), and the splits whose prompts it answers.

    sigma_factor: multiplies a member's sigma. generation: whose member it is, or from which generation's
    centre; None: the evaluation's own. The candidates of an evaluation differ in index or generation, also
    where their factors differ: outcomes are found by these.
    """

    index: int
    splits: tuple[str, ...] = ("train",)
    sigma_factor: float = 1.0
    generation: int | None = None


@dataclass(frozen=True)
class Shard:
    """Candidates that one worker evaluates in one batch; they do not depend on the workers."""

    generation: int
    candidates: tuple[Candidate, ...]

    def packed(self) -> list[Any]:
        """As lists of numbers and strings, for sending: Ray pickles those much faster than objects.

        Consecutive candidates with the same splits, factor and generation make one list: splits, indices,
        and the others unless they are 1 and the shard's.
        """
        groups = groupby(self.candidates, attrgetter("splits", "sigma_factor", "generation"))
        return [
            self.generation,
            [
                [list(splits), [c.index for c in same], *_unusual(factor, generation)]
                for (splits, factor, generation), same in groups
            ],
        ]

    @classmethod
    def of(cls, generation: int, groups: Sequence[Sequence[Any]]) -> "Shard":
        """From what `packed` returned."""
        found = [
            Candidate(index, tuple(splits), *unusual)
            for splits, indices, *unusual in groups
            for index in indices
        ]
        return cls(generation, tuple(found))

    def rows(self, batch: Batch) -> int:
        """The number of completions."""
        return sum(batch.rows(candidate.index, candidate.splits) for candidate in self.candidates)

    def __str__(self) -> str:
        if any(c.generation is not None for c in self.candidates):
            generations = [self.generation if c.generation is None else c.generation for c in self.candidates]
            each = zip(self.candidates, generations, strict=True)
            return " and ".join(candidate_name(c.index, generation) for c, generation in each)
        members = [c.index for c in self.candidates if c.index >= 0]
        names = [f"members {members[0]}-{members[-1]}"] if members else []
        names += [
            {CENTRE: "the centre", BASE: "the base model"}[c.index] for c in self.candidates if c.index < 0
        ]
        return f"{' and '.join(names)} of generation {self.generation}"


def _unusual(factor: float, generation: int | None) -> list[Any]:
    """The last fields of a Candidate as far as they are not its defaults."""
    if generation is not None:
        return [factor, generation]
    return [] if factor == 1.0 else [factor]
