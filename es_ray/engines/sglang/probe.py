"""The start-up probe: adapters really act, each in its own slot, and an empty one does nothing.

A serving engine that ignores an adapter answers as the base model without a word, and a run would then
train on nothing. So before the first generation a fixed prompt is scored, token by token, by the base
model, by a zero adapter, and by a random member in every slot.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, CENTRE, Row
from es_ray.errors import EvaluationError
from es_ray.evolution.noise import Noise
from es_ray.evolution.strategy import PiecewiseConstant, Strategy
from es_ray.experiment import Experiment

if TYPE_CHECKING:
    from es_ray.engines.sglang.engine import SGLangEngine

TOLERANCE = 0.05
"""How far a token's log-probability under a zero adapter may be from the base model's, in nats."""
STD = 0.05
"""Standard deviation of the probe's members: far enough from the base model to show in half precision."""
LONGEST = 64
"""Tokens of the prompt that are scored."""

LogProbs = NDArray[np.float64]


def probe(engine: "SGLangEngine", experiment: Experiment) -> None:
    """Raise EvaluationError, with the check that failed, unless every adapter slot acts as it must."""
    size = experiment.layout.size
    theta = np.zeros(size, dtype=np.float32)
    strategy = Strategy(
        noise=Noise(experiment.config.evolution.seed),
        population=max(engine.slots, 2),
        sigma=PiecewiseConstant((size,), (STD,)),
        first_sigma=None,
        initial_std=PiecewiseConstant((size,), (0.0,)),
        learning_rate=1.0,
    )
    prompt = experiment.prompt_ids["train"][0][:LONGEST]
    zero = score(engine, theta, strategy, [CENTRE, BASE], prompt)
    members = score(engine, theta, strategy, [*range(engine.slots), BASE], prompt)
    judge(zero[BASE], zero[CENTRE], [members[index] for index in range(engine.slots)])


def score(
    engine: "SGLangEngine",
    theta: NDArray[np.float32],
    strategy: Strategy,
    candidates: Sequence[int],
    prompt: Sequence[int],
) -> dict[int, LogProbs]:
    """Log-probabilities of a prompt's tokens, and of the first new one, by candidate of generation 0."""
    rows = [Row(candidate, tuple(prompt)) for candidate in candidates]
    slot_of = engine.write_adapters(theta, strategy, 0, rows)
    outputs = engine.generate_raw(rows, slot_of, new_tokens=1, return_logprob=True, logprob_start_len=0)
    return {row.candidate: log_probs(output["meta_info"]) for row, output in zip(rows, outputs, strict=True)}


def log_probs(meta: dict[str, Any]) -> LogProbs:
    """The log-probabilities in an output's `meta_info`; the prompt's first token has none."""
    entries = [*meta["input_token_logprobs"], *meta["output_token_logprobs"]]
    return np.array([entry[0] for entry in entries if entry[0] is not None], dtype=np.float64)


def judge(base: LogProbs, zero: LogProbs, members: Sequence[LogProbs]) -> None:
    """Raise EvaluationError unless zero is base and all members differ from base and from each other."""
    apart = float(np.abs(zero - base).max())
    if not apart <= TOLERANCE:
        raise EvaluationError(
            f"start-up probe: a zero adapter is not the base model: log-probabilities are {apart:.3g} apart "
            f"(at most {TOLERANCE} is allowed); the LoRA backend is not to be trusted"
        )
    for number, member in enumerate(members):
        if not np.isfinite(member).all():
            raise EvaluationError(
                f"start-up probe: slot {number}'s member has log-probabilities that are not finite"
            )
        if np.array_equal(member, base):
            raise EvaluationError(
                f"start-up probe: slot {number}'s member answers as the base model: no adapter is applied"
            )
        for other in range(number):
            if np.array_equal(member, members[other]):
                raise EvaluationError(
                    f"start-up probe: the members in slots {other} and {number} must differ and do not"
                )
