"""What answers come to: means over examples with their intervals, beside the base model's."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.judge.intervals import Interval, bootstrap
from es_ray.tasks.base import RESERVED, Task

LENGTH, TOKENS, TRUNCATED, NORMALIZED = (
    "completion_length", "completion_tokens", "truncated", "normalized_reward",
)  # fmt: skip
"""Quantities besides the reward and the task's metrics: characters, tokens, the share that was cut."""
PASS: Final = "pass@"

Values = NDArray[np.float64]
"""A quantity of every completion, shape [examples, samples]."""


def statistics(
    answers: Mapping[str, Mapping[str, Any]], samples: int, task: Task, kl: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Of each name in answers its quantities by name: {mean, low, high} and, where they say something, more.

    answers: by name, with `base` first, each with its examples, `samples` for each prompt; kl: by name, only
    a mean. spread: the standard deviation over a prompt's samples, averaged over prompts; difference: of each
    prompt's mean to the base model's, {mean, low, high}. Intervals are bootstrapped over prompts.
    """
    values = {name: _quantities(each["examples"], samples, task) for name, each in answers.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, quantities in values.items():
        found[name] = {
            quantity: _statistic(own, None if name == "base" else values["base"][quantity])
            for quantity, own in quantities.items()
        }
        if name in kl:
            found[name]["kl"] = {"mean": kl[name]}
    return found


def pass_at(correct: NDArray[Any], k: int) -> Values:
    """The chance that one of k samples of a prompt is right, shape [prompts, 1].

    correct: of each sample, shape [prompts, samples]. The unbiased estimate 1 - C(n - c, k) / C(n, k) for c
    right ones of n (Chen et al. 2021, arXiv 2107.03374).
    """
    samples = correct.shape[1]
    right = np.count_nonzero(correct, axis=1).tolist()
    return np.array([[1 - math.comb(samples - c, k) / math.comb(samples, k)] for c in right])


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


def _statistic(own: Values, base: Values | None) -> dict[str, Any]:
    means = own.mean(axis=1)
    found: dict[str, Any] = bootstrap(means)._asdict()
    if own.shape[1] > 1:
        found["spread"] = float(own.std(axis=1).mean())
    if base is not None:
        found["difference"] = bootstrap(means - base.mean(axis=1))._asdict()
    return found


def as_interval(found: Mapping[str, float]) -> Interval:
    """From {mean, low, high}."""
    return Interval(found["mean"], found["low"], found["high"])
