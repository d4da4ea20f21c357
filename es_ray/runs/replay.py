"""Any centre of a run, from what is recorded: a stored state, or a replay of recorded advantages."""

from es_ray.evolution.strategy import Strategy, Vector
from es_ray.runs.run_dir import RunDir


def centre(run: RunDir, strategy: Strategy, generation: int) -> Vector:
    """The centre after that generation's update, shape [P]; -1: the initial values.

    Where the state was pruned, the updates since the last one that is stored are computed again.
    Raises RunError for what cannot be read.
    """
    start = next((g for g in range(generation, -1, -1) if run.recorded(g).has_state), -1)
    theta = run.recorded(start).state() if start >= 0 else strategy.initial()
    for replayed in range(start + 1, generation + 1):
        advantages = run.recorded(replayed).advantages()
        if advantages.any():
            theta = strategy.tell(theta, replayed, advantages, 0, len(theta))
    return theta
