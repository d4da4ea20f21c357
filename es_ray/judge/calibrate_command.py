"""The command that finds noise which fits a run's model and task."""

import shlex
from typing import Any

from es_ray.config import BUNDLED, Config, load
from es_ray.config.tree import flat
from es_ray.engines.registry import AUTO, ENGINES

FLAGS = {
    "model.path": "--model",
    "task.name": "--task",
    "task.train": "--train",
    "task.test": "--test",
}
SECTIONS = ("model.", "lora.", "task.")
"""Keys of these are given with --set where they are not the default: they change what noise does."""


def calibrate_command(config: Config) -> str:
    """`es-ray calibrate` with what a run has of its options."""
    values = flat(config.model_dump())
    defaults = flat(load(flags={"model.path": config.model.path}).model_dump())
    words = ["es-ray", "calibrate"]
    for key, flag in FLAGS.items():
        unset = (BUNDLED,) if key == "model.path" else (None,)
        if values[key] not in unset:
            words += [flag, str(values[key])]
    if config.engine.kind not in (AUTO, *ENGINES):  # of those it chooses one itself
        words += ["--engine", config.engine.kind]
    for key, value in values.items():
        if key.startswith(SECTIONS) and key not in FLAGS and value != defaults.get(key):
            words += ["--set", f"{key}={_text(value)}"]
    return shlex.join(words)


def _text(value: Any) -> str:
    """As YAML reads it in `--set`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value)
