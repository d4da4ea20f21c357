"""What answers come to: means over examples with their intervals, beside the base model's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.evaluation.kl import kl_key
from es_ray.judge.intervals import Interval, bootstrap_columns, bootstrap_ratio
from es_ray.tasks.base import RESERVED, Task

LENGTH, TOKENS, TRUNCATED, NORMALIZED = (
    "completion_length", "completion_tokens", "truncated", "normalized_reward",
)  # fmt: skip
"""Quantities besides the reward and the task's metrics: characters, tokens, the share that was cut."""
PASS: Final = "pass@"
KL, KL_FORWARD = kl_key("both"), kl_key("merged")

Values = NDArray[np.float64]
"""A quantity of every completion, shape [examples, samples]."""


def statistics(
    answers: Mapping[str, Mapping[str, Any]],
    samples: int,
    task: Task,
    kl: Mapping[str, NDArray[np.float64]],
    kl_name: str = KL,
) -> dict[str, dict[str, Any]]:
    """Of each name in answers its quantities by name: {mean, low, high} and, where they say something, more.

    answers: by name, with `base` first, each with its examples, `samples` for each prompt; kl: by name, of
    each prompt the sum of its terms and its tokens, shape [prompts, 2]; the base model's is 0; kl_name: what
    it is called. spread: the
    standard deviation over a prompt's samples (with the unbiased variance), averaged over prompts;
    difference: of each prompt's mean to the base model's, {mean, low, high}. Intervals are bootstrapped over
    prompts; of one prompt there is none, and no low and high.
    """
    values = {name: _quantities(each["examples"], samples, task) for name, each in answers.items()}
    means = {(name, of): own.mean(axis=1) for name, each in values.items() for of, own in each.items()}
    changes = {(name, of): own - means["base", of] for (name, of), own in means.items() if name != "base"}
    own, differences = _intervals(means, changes)
    found: dict[str, dict[str, Any]] = {name: {} for name in answers}
    for (name, of), interval in own.items():
        found[name][of] = interval.record()
        if values[name][of].shape[1] > 1:
            found[name][of]["spread"] = float(values[name][of].std(axis=1, ddof=1).mean())
        if name != "base":
            found[name][of]["difference"] = differences[name, of].record()
    if kl:
        found["base"][kl_name] = {"mean": 0.0}
    for name, sums in kl.items():
        found[name][kl_name] = bootstrap_ratio(sums).record()
    return found


def pass_at(correct: NDArray[Any], k: int) -> Values:
    """The chance that one of k samples of a prompt is right, shape [prompts, 1].

    correct: of each sample, shape [prompts, samples]. The unbiased estimate 1 - C(n - c, k) / C(n, k) for c
    right ones of n (Chen et al. 2021, arXiv 2107.03374).
    """
    samples = correct.shape[1]
    right = np.count_nonzero(correct, axis=1).tolist()
    return np.array([[1 - math.comb(samples - c, k) / math.comb(samples, k)] for c in right])


def has_equal_values(found: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of the intervals in `statistics` has no width, as all values are equal."""
    each = [one for of_name in found.values() for one in of_name.values()]
    each += [one["difference"] for one in each if "difference" in one]
    return any("low" in one and one["low"] == one["high"] for one in each)


def _quantities(examples: Sequence[Mapping[str, Any]], samples: int, task: Task) -> dict[str, Values]:
    def each(values: Sequence[float]) -> Values:
        return np.asarray(values, dtype=np.float64).reshape(-1, samples)

    metrics = [name for name in examples[0] if name not in RESERVED]
    found = {name: each([example[name] for example in examples]) for name in ("reward", *metrics)}
    if samples > 1 and "correct" in metrics:
        tries = {2**power for power in range(samples.bit_length())} | {samples}
        found |= {f"{PASS}{k}": pass_at(found["correct"], k) for k in sorted(tries) if k <= samples}
    normalized = [task.normalized_reward(example["reward"]) for example in examples]
    ours: dict[str, Sequence[float]] = {
        LENGTH: [len(example["completion"]) for example in examples],
        TOKENS: [example["tokens"] for example in examples],
        TRUNCATED: [example["finish"] == "length" for example in examples],
    }
    if None not in normalized:
        ours = {NORMALIZED: normalized, **ours}  # type: ignore[dict-item]
    # a task's metric of such a name is the task's
    return found | {name: each(values) for name, values in ours.items() if name not in found}


def _intervals(*columns: Mapping[tuple[str, str], Values]) -> list[dict[tuple[str, str], Interval]]:
    """Of each mapping's values, one for each prompt, their intervals; the prompts are drawn once for all."""
    found = iter(bootstrap_columns(np.column_stack([one for each in columns for one in each.values()])))
    return [{key: next(found) for key in each} for each in columns]
