"""A run's settings for people elsewhere: those that are not the defaults, and the command that repeats it.

Folders of the machine that the run was on are left out; what they contain is named.
"""

import re
import shlex
from typing import Any, Final

import yaml

from es_ray.config import BUNDLED, Config, load
from es_ray.config.tree import flat

FLAGS: Final = {
    "model.path": "--model",
    "task.name": "--task",
    "task.train": "--train",
    "task.test": "--test",
    "evolution.generations": "--generations",
    "evolution.population": "--population",
    "evolution.seed": "--seed",
    "engine.kind": "--engine",
}
"""Keys that have an option of their own."""
ELSEWHERE: Final = ("cluster.", "output.", "tracking.")
"""Sections that say where a run computes and writes, not what it is."""
_FOLDERS: Final = re.compile(r"^(?:~|file://)?/.*/(?=[^/])")


def without_folders(value: Any) -> Any:
    """A value without the folders of an absolute path that it is: /home/me/reward.py:f becomes reward.py:f.

    >>> without_folders("/home/me/reward.py:f"), without_folders("hf:owner/data:train"), without_folders([1])
    ('reward.py:f', 'hf:owner/data:train', [1])
    """
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    return value


def changed_settings(config: Config) -> dict[str, Any]:
    """A run's values by dotted key, where they are not what `es-ray run` with its model takes."""
    defaults = flat(load(flags={"model.path": config.model.path}).model_dump())
    return {
        key: value
        for key, value in flat(config.model_dump()).items()
        if value != defaults.get(key) and value != {} and not key.startswith(ELSEWHERE)
    }


def repeat_command(config: Config, base: str) -> list[str]:
    """The words of the `es-ray run` that repeats a run; base: the base model's name elsewhere."""
    changed = changed_settings(config)
    words = ["es-ray", "run"]
    if config.model.path != BUNDLED:
        words += ["--model", base]
    for key, value in changed.items():
        if key == "model.path":
            continue
        if key in FLAGS and value is not None:
            words += [FLAGS[key], str(without_folders(value))]
        else:
            words += ["--set", f"{key}={_as_yaml(without_folders(value))}"]
    return words


def as_lines(words: list[str]) -> str:
    """A command for a terminal, an option on each line."""
    pairs = [shlex.join(words[:2])]
    for word in words[2:]:
        if word.startswith("--"):
            pairs.append(shlex.quote(word))
        else:
            pairs[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(pairs)


def _as_yaml(value: Any) -> str:
    """In one line, as `--set` reads it."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
