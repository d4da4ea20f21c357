"""The section about the guard: what it watches, and what it does."""

from typing import Literal

from es_ray.config.fields import Positive, Section


class GuardConfig(Section):
    """When a centre gets a verdict: it still has its reward, but has lost what the reward does not see.

    metric: of the task, to be watched (None: `correct` where the task has it); max_drop: how far it may fall
    below the base model's or its own best; max_kl: the most that the centre's KL to the base model may be
    (None: any). action: say so (warn), end the run well (stop), or go back to the selected centre (rollback).
    """

    metric: str | None = None
    max_drop: Positive = 0.15
    max_kl: Positive | None = None
    action: Literal["warn", "stop", "rollback"] = "warn"
