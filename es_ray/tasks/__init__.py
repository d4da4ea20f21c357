"""Tasks by name. Each is one module: examples come from JSONL files, the score from its class."""

from es_ray.tasks.base import Example, Score, Task, read_examples
from es_ray.tasks.conciseness import Conciseness

TASKS: dict[str, type[Task]] = {"conciseness": Conciseness}

__all__ = ["TASKS", "Example", "Score", "Task", "read_examples"]
