"""The start-up probe: adapters have an effect, each in its own slot, and an empty one has none.

A serving engine that ignores an adapter silently answers as the base model, and a run would train on
nothing. So before the first generation a fixed prompt is scored, token by token, by the base
model, by a zero adapter, and by a random member in every slot.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, CENTRE, Engine, Row, Variant
from es_ray.errors import EvaluationError
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant, Vector
from es_ray.experiment import Experiment

TOLERANCE = 0.05
"""How far a token's log-probability under a zero adapter may be from the base model's, in nats."""
STD = 0.05
"""Standard deviation of the probe's members: far enough from the base model to show in half precision."""
LONGEST = 64
"""Tokens of the prompt that are scored."""

LogProbs = NDArray[np.float32]


def probe(engine: Engine, slots: int, experiment: Experiment) -> None:
    """Raise EvaluationError, with the check that failed, unless every slot behaves as it must."""
    size = experiment.layout.size
    theta = np.zeros(size, dtype=np.float32)
    perturbation = Perturbation(
        Noise(experiment.config.evolution.seed), sigma=PiecewiseConstant((size,), (STD,))
    )
    prompt = experiment.workload.prompt_ids[:LONGEST]
    zero = score(engine, theta, perturbation, [CENTRE, BASE], prompt)
    members = score(engine, theta, perturbation, [*range(slots), BASE], prompt)
    check_scores(zero[BASE], zero[CENTRE], [members[index] for index in range(slots)])


def score(
    engine: Engine,
    theta: Vector,
    perturbation: Perturbation,
    indices: Sequence[int],
    prompt: Sequence[int],
) -> dict[int, LogProbs]:
    """Log-probabilities of a prompt's tokens after the first, by member of generation 0, CENTRE or BASE.

    The prompt's last token is scored once more after the prompt, so that a prompt of one token has a score.
    """
    rows = [Row(Variant(index), tuple(prompt[:1])) for index in indices]
    scored = [[*prompt[1:], prompt[-1]]] * len(rows)
    return dict(zip(indices, engine.log_probs([theta], perturbation, rows, scored), strict=True))


def check_scores(base: LogProbs, zero: LogProbs, members: Sequence[LogProbs]) -> None:
    """Raise EvaluationError unless zero is base and all members differ from base and from each other."""
    apart = float(np.abs(zero - base).max())
    if not apart <= TOLERANCE:
        raise EvaluationError(
            f"start-up probe: a zero adapter is not the base model: log-probabilities are {apart:.3g} apart "
            f"(at most {TOLERANCE} is allowed); use another LoRA backend (engine.sglang.lora_backend)"
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
