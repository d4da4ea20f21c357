"""Base model, centre, best member and selected centre side by side on one split."""

from typing import Any

from es_ray.evaluation import BASE, CENTRE, Candidate
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import Strategy
from es_ray.runs.metrics_file import best_of
from es_ray.runs.replay import centre_after
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.batches import Batch
from es_ray.workers.pool import OnProgress, Pool


def compare(
    pool: Pool,
    run: RunDir,
    strategy: Strategy,
    batch: Batch,
    generation: int,
    split: str,
    theta: Vector | None = None,
    on_progress: OnProgress = lambda done, total: None,
    selected: int | None = None,
) -> dict[str, Any]:
    """{base, centre, best, selected}: each with its reward, the task's metrics, and examples.

    centre is the one after that generation's update (theta, if given); best is the best member of all
    generations up to it, with its generation and index; selected is the centre after the generation of that
    number, with it, left out for None. batch: has the split's examples. on_progress: called with the
    completions of all of them.
    """
    theta = centre_after(run, strategy, generation) if theta is None else theta
    born, index = best_of(run.metrics(generation))
    noise = strategy.perturbation
    both = [Candidate(BASE, (split,)), Candidate(CENTRE, (split,))]
    each = batch.rows(CENTRE, (split,))
    total = each * (3 if selected in (None, generation) else 4)
    pair = pool.evaluate(theta, noise, generation + 1, both, batch, lambda done, _: on_progress(done, total))
    before = centre_after(run, strategy, born - 1)
    best = pool.evaluate(
        before,
        noise,
        born,
        [Candidate(index, (split,))],
        batch,
        lambda done, _: on_progress(2 * each + done, total),
    )
    found = {"base": (pair, BASE), "centre": (pair, CENTRE), "best": (best, index)}
    results: dict[str, Any] = {
        name: outcomes.summary(who, split) | {"examples": outcomes.examples(who, split)}
        for name, (outcomes, who) in found.items()
    }
    results["best"] |= {"generation": born, "index": index}
    if selected is not None:
        outcomes = pair
        if selected != generation:
            outcomes = pool.evaluate(
                centre_after(run, strategy, selected),
                noise,
                selected + 1,
                [Candidate(CENTRE, (split,))],
                batch,
                lambda done, _: on_progress(3 * each + done, total),
            )
        answers = {"examples": outcomes.examples(CENTRE, split), "generation": selected}
        results["selected"] = outcomes.summary(CENTRE, split) | answers
    return results
