"""Tasks by name: one that comes with es-ray, or a user's own."""

from collections.abc import Mapping
from typing import Any

from es_ray.imports import instance_of, resolve
from es_ray.tasks import TASKS
from es_ray.tasks.base import Task


def load_task(name: str, options: Mapping[str, Any]) -> Task:
    """The task of that name, made with its options.

    name: as `task.name`; raises UserError for an unknown name, and for what is no task.
    """
    found = resolve("task.name", name, TASKS)
    return instance_of(Task, "task.name", name, found, options)  # type: ignore[type-abstract]
