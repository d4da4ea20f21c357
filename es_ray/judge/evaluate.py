"""Base model, centre, best member, selected centre and other members side by side on one split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from es_ray.evaluation import BASE, CENTRE, Candidate
from es_ray.evaluation.kl import KlPrompts
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import Strategy
from es_ray.runs.metrics_file import best_of
from es_ray.runs.replay import centre_after
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import OnProgress, Pool


class Weights(NamedTuple):
    """Whose weights answer: a generation's member, by its index, the CENTRE it starts from, or BASE."""

    generation: int
    member: int


def compared(
    run: RunDir, generation: int, selected: int | None = None, members: Iterable[Weights] = ()
) -> dict[str, Weights]:
    """What is compared after a generation, by name: base, centre, best, selected, and members as `3:5`.

    centre is the one after that generation's update; best is the best member of all generations up to it;
    selected is the centre after the generation of that number, left out for None.
    """
    found = {
        "base": Weights(generation + 1, BASE),
        "centre": Weights(generation + 1, CENTRE),
        "best": Weights(*best_of(run.metrics(generation))),
    }
    if selected is not None:
        found["selected"] = Weights(selected + 1, CENTRE)
    return found | {f"{each.generation}:{each.member}": each for each in members}


@dataclass(frozen=True)
class SideBySide:
    """Evaluations of different weights of a run in one batch, as a generation's candidates are.

    generation, theta: the centre that most candidates are of, shape [P], and the generation that would start
    from it; others: the centres that the other candidates' generations start from.
    """

    pool: Pool
    strategy: Strategy
    weights: Mapping[str, Weights]
    generation: int
    theta: Vector
    others: Mapping[int, Vector]

    @classmethod
    def of(
        cls,
        pool: Pool,
        run: RunDir,
        strategy: Strategy,
        weights: Mapping[str, Weights],
        theta: Vector | None = None,
    ) -> "SideBySide":
        """Of `compared`; theta: the last centre, if known. Raises RunError for torn files."""
        last = weights["centre"].generation
        if theta is None:
            theta = centre_after(run, strategy, last - 1)
        rest = sorted({each.generation for each in weights.values()} - {last})
        others = {start: centre_after(run, strategy, start - 1) for start in rest}
        return cls(pool, strategy, weights, last, theta, others)

    def answers(
        self, batch: Batch, split: str, on_progress: OnProgress = lambda done, total: None
    ) -> dict[str, dict[str, Any]]:
        """By name: reward, the task's metrics, examples; of members generation and index, as of the best one.

        Centres have a generation, the one after which they came about; not in runs without a selected centre,
        as those of 0.1.0 are.

        batch: has the split's examples. on_progress: called with the completions of all of them.
        """
        asked = dict.fromkeys(self.weights.values())  # the selected centre may be the last one
        outcomes = self.pool.evaluate(
            self.theta,
            self.strategy.perturbation,
            self.generation,
            [Candidate(each.member, (split,), generation=self._own(each)) for each in asked],
            batch,
            on_progress,
            others=self.others,
            shard=self._shard(batch.rows(CENTRE, (split,))),
        )
        found = {}
        for name, each in self.weights.items():
            which = each.member, split, self._own(each)
            found[name] = outcomes.summary(*which) | {"examples": outcomes.examples(*which)}
            if name == "selected" or (name == "centre" and "selected" in self.weights):
                found[name]["generation"] = each.generation - 1
            elif each.member >= 0:
                found[name] |= {"generation": each.generation, "index": each.member}
        return found

    def kl_sums(self, batch: Batch, split: str, most: int) -> dict[str, NDArray[np.float64]]:
        """The KL to the base model of each but it, on at most so many prompts: sums as of `Pool.kl`."""
        numbers = batch.asked(CENTRE, split)[:most]
        asked = list(dict.fromkeys(each for each in self.weights.values() if each.member != BASE))
        prompts = [KlPrompts(split, numbers, each.member, generation=self._own(each)) for each in asked]
        noise = self.strategy.perturbation
        measured = self.pool.kl(self.theta, noise, self.generation, prompts, batch, self.others)
        sums = dict(zip(asked, measured, strict=True))
        return {name: sums[each] for name, each in self.weights.items() if each in sums}

    def _own(self, each: Weights) -> int | None:
        return None if each.generation == self.generation else each.generation

    def _shard(self, rows: int) -> int:
        """As many candidates as fill an engine's batch: more would keep other workers idle.

        rows: completions of one. Never by the number of workers, on which no byte depends.
        """
        engine = self.pool.config.engine
        assert engine.rows != "auto"  # resolve_config has settled it
        return max(min(engine.rows // rows, engine.shard), 1)


def side_by_side(
    pool: Pool,
    run: RunDir,
    strategy: Strategy,
    batch: Batch,
    generation: int,
    split: str,
    theta: Vector,
    on_progress: OnProgress,
    selected: int | None,
) -> dict[str, Any]:
    """test_results.json, of the last generation: {base, centre, best, selected}, see `compared`.

    theta: the last centre, shape [P].
    """
    weights = compared(run, generation, selected)
    return SideBySide.of(pool, run, strategy, weights, theta).answers(batch, split, on_progress)
