"""The tasks that come with es-ray, by name. Each is one module; those alike share one."""

from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.conciseness import Conciseness, ValidatedConciseness
from es_ray.tasks.countdown import Countdown
from es_ray.tasks.matching import Contains, ExactMatch, Regex
from es_ray.tasks.mathematics import Math
from es_ray.tasks.numeric import Numeric
from es_ray.tasks.reasoning_gym import ReasoningGym

TASKS: dict[str, type[Task]] = {
    "conciseness": Conciseness,
    "conciseness-validated": ValidatedConciseness,
    "exact-match": ExactMatch,
    "contains": Contains,
    "regex": Regex,
    "numeric": Numeric,
    "math": Math,
    "countdown": Countdown,
    "reasoning-gym": ReasoningGym,
}

__all__ = ["TASKS", "Example", "Score", "Task"]
