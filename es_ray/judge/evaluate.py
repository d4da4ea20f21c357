"""Base model, centre and best member side by side on one split."""

from typing import Any

from es_ray.evaluation import BASE, CENTRE, Candidate
from es_ray.evolution.strategy import Strategy, Vector
from es_ray.runs.replay import centre
from es_ray.runs.run_dir import RunDir, best_of
from es_ray.workers.pool import Pool


def compare(
    pool: Pool, run: RunDir, strategy: Strategy, generation: int, split: str, theta: Vector | None = None
) -> dict[str, Any]:
    """{base, centre, best}: each {reward, correct, exact, examples}.

    centre is the one after that generation's update (theta, where it is at hand); best is the best member
    of all generations up to it, and tells its generation and index.
    """
    theta = centre(run, strategy, generation) if theta is None else theta
    born, index = best_of(run.metrics(generation))
    pair = pool.evaluate(
        theta, strategy, generation + 1, [Candidate(BASE, (split,)), Candidate(CENTRE, (split,))]
    )
    best = pool.evaluate(centre(run, strategy, born - 1), strategy, born, [Candidate(index, (split,))])
    found = {"base": (pair, BASE), "centre": (pair, CENTRE), "best": (best, index)}
    results: dict[str, Any] = {
        name: outcomes.summary(who, split) | {"examples": outcomes.examples(who, split)}
        for name, (outcomes, who) in found.items()
    }
    results["best"] |= {"generation": born, "index": index}
    return results
