"""Tasks by name: one that comes with es-ray, an entry point's, or a user's own class, object or function."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from es_ray.errors import UserError
from es_ray.imports import instance_of, is_import_path, resolve
from es_ray.imports.shipping import shipped_entry_point
from es_ray.tasks import TASKS
from es_ray.tasks.base import Task
from es_ray.tasks.functions import check_options, check_passed_on, function_task

GROUP = "es_ray.tasks"
"""The group of entry points that are tasks: `mine = "package.module:reward"` makes `--task mine`."""
KEY = "task.name"


def load_task(name: str, options: Mapping[str, Any]) -> Task:
    """The task of that name, made with its options.

    name: as `task.name`, of a class derived from Task, an instance of one, or a function as
    `es_ray.tasks.functions` wants it; options: keyword arguments of the class or the function. Raises
    UserError for an unknown name, for what is no task, and for options that it does not take.
    """
    found = resolve(KEY, import_path(name), TASKS)
    if isinstance(found, Task):
        if options:
            raise UserError(
                f"task.options.{next(iter(options))}: {name} is an object, which takes no options"
            )
        return found
    if not isinstance(found, type) and callable(found):
        return function_task(KEY, name, found, options)
    if not (isinstance(found, type) and issubclass(found, Task)):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise UserError(
            f"{KEY}: {name} is {what}; a function reward(example, completion), or a class derived from "
            "es_ray.Task, is wanted there"
        )
    check_options(name, found, options)
    try:
        return instance_of(Task, KEY, name, found, options)  # type: ignore[type-abstract]
    except UserError as error:
        check_passed_on(name, found, options, error.__cause__)
        raise


def import_path(name: str) -> str:
    """The import path that an entry point of that name stands for; any other name as it is.

    A name that comes with es-ray keeps its meaning, whatever is installed.
    """
    if name in TASKS or is_import_path(name):
        return name
    if (shipped := shipped_entry_point(name)) is not None:
        return shipped
    points = sorted(entry_points(group=GROUP, name=name), key=lambda point: point.value)
    found = {point.value: point for point in points}
    if len(found) > 1:
        several = " and ".join(f"{_package(point)} ({point.value})" for point in found.values())
        raise UserError(f"{KEY}: {name!r} is an entry point of {several}; name one by its import path")
    if not found:
        others = sorted({point.name for point in entry_points(group=GROUP)} - set(TASKS))
        if others:
            resolve(KEY, name, TASKS | dict.fromkeys(others))  # raises, and names them too
    return next(iter(found), name)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
