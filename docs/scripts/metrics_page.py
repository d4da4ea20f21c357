"""docs/reference/metrics.md: the keys of metrics.jsonl, and their names in trackers and in Ray's metrics."""

from page_text import page, table

from es_ray.callbacks.ray_metrics import GAUGES, REDISPATCHED, TOKENS
from es_ray.callbacks.tracked import numbers

KEYS = {
    "generation": "its number, from 0",
    "reward_mean": "mean reward of the members",
    "reward_std": "standard deviation of the members' rewards",
    "reward_best": "highest reward of a member",
    "reward_worst": "lowest reward of a member",
    "best_index": "which member has the highest reward; the lowest index on ties",
    "completion_length": "mean length of the members' completions, in characters",
    "truncated": "share of the members' completions that end at `task.max_new_tokens`",
    "members_correct": "mean of a task's metric over the members; so for every metric, here `correct`",
    "centre_reward": "reward of the centre on the training prompts of this generation",
    "centre_correct": "a task's metric of the centre there",
    "test_reward": "reward of the centre on the test prompts; null where they were not asked",
    "test_correct": "a task's metric of the centre there",
    "validation_reward": "reward of the centre on the validation prompts, where there are some",
    "validation_correct": "a task's metric of the centre there",
    "sigma": "size of the noise: geometric mean over the adapted matrices that have noise",
    "learning_rate": "of this generation's step, after schedule and rollbacks",
    "kl": "KL of the centre to the base model, per token; absent where not measured",
    "kl_forward": "form `merged`: KL of the base model to the centre; absent where not measured",
    "drift": "‖ΔW‖ / ‖W‖ of the centre over the adapted matrices",
    "verdicts": "words of the guard on this centre",
    "rollback": "generation whose centre the run went back to; absent if it did not",
    "update_norm": "length of the step, in the space of the LoRA entries",
    "zero_variance": "whether all members have the same reward, so that there is no step",
    "redispatched": "members that were evaluated again because their worker was lost",
    "workers": "workers that were ready",
    "tokens": "tokens that members and centre generated",
    "seconds": "`evaluate`, `update`, `total`, and `record`, which runs beside the next generation",
    "tokens_per_second": "tokens by the seconds of `evaluate`",
}
"""Every key of a line, with `correct` for a task's metrics."""
OF_CALLBACKS = {
    "changed_members": "share of members that answer differently from the centre; greedy answers only",
    "distinct_members": "how many different sets of answers the members have; greedy answers only",
}
"""What callbacks and trackers get beside the keys of the file."""

INTRODUCTION = """\
A line of `metrics.jsonl` describes generation g by its members and by the centre that they were drawn from:
the centre after generation g − 1. The same numbers, with the names of the second column, go to
[TensorBoard and Weights & Biases](../how-to/trackers.md)."""
FINAL = """\
At the end, trackers also get `final/<who>_<metric>` for base, centre, best and selected on the test
prompts, from `test_results.json`."""


def metrics_page() -> str:
    """The page."""
    rows = [[f"`{key}`", _tracked(key), meaning] for key, meaning in KEYS.items()]
    beside = [[f"`{key}`", _tracked(key), meaning] for key, meaning in OF_CALLBACKS.items()]
    ray = [[f"`ray_es_ray_{key}`", "gauge", text.lower()] for key, text in GAUGES.items()]
    ray += [
        [
            f"`ray_es_ray_{REDISPATCHED}`",
            "gauge",
            "members evaluated again so far, because their worker was lost",
        ],
        [f"`ray_es_ray_{TOKENS}_total`", "counter", "tokens generated"],
    ]
    return page(
        "Metrics",
        INTRODUCTION,
        table(["key", "in trackers", "meaning"], rows),
        "Callbacks and trackers also get:",
        table(["key", "in trackers", "meaning"], beside),
        FINAL,
        "## Ray's metrics",
        "With Ray workers and the extra `metrics`, on each node's metrics endpoint; the label `run` is the "
        "run's name:",
        table(["name", "kind", "meaning"], ray),
    )


def _tracked(key: str) -> str:
    """The key's name in a tracker."""
    if key == "seconds":
        return "`speed/seconds_*`"
    sample = {"verdicts": ["kl"], "rollback": 1}.get(key, 1.0)
    return ", ".join(f"`{name}`" for name in numbers({key: sample}))
