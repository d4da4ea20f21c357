"""The tasks that come with es-ray, by name. Each is one module."""

from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.conciseness import Conciseness

TASKS: dict[str, type[Task]] = {"conciseness": Conciseness}

__all__ = ["TASKS", "Example", "Score", "Task"]
