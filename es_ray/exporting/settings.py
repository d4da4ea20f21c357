"""A run's settings for people elsewhere: those that are not the defaults, and the command that repeats it.

Folders of the machine that the run was on are left out; what they contain is named. Secrets are masked.
"""

import re
import shlex
from typing import Any, Final

import yaml

from es_ray.config import BUNDLED, Config, load
from es_ray.config.secrets import masked_tree
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
PATHS: Final = (
    "model.path", "task.name", "task.train", "task.test", "task.validation", "engine.kind",
    "evolution.optimizer",
)  # fmt: skip
"""Keys whose values may be paths."""
OPTIONS: Final = "task.options."
"""Keys of which that is not known: a value is taken for a path if it has nothing that paths seldom have."""
_NO_PATH: Final = re.compile(r"[\s\\^$*+?()\[\]{}|]")
_FOLDERS: Final = re.compile(r"^(?:~|file://)?/.*/(?=[^/])")


def without_folders(value: Any) -> Any:
    """A value without the folders of an absolute path that it is: /home/me/reward.py:f becomes reward.py:f.

    >>> without_folders("/home/me/reward.py:f"), without_folders("hf:owner/data:train"), without_folders([1])
    ('reward.py:f', 'hf:owner/data:train', [1])
    """
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    return value


def _without_folders(key: str, value: Any) -> Any:
    """The value of a key, without folders if it is a path."""
    if key.startswith(OPTIONS) and isinstance(value, list):
        return [_without_folders(key, each) for each in value]
    is_option = key.startswith(OPTIONS) and isinstance(value, str) and not _NO_PATH.search(value)
    return without_folders(value) if is_option or key in PATHS else value


def changed_settings(config: Config) -> dict[str, Any]:
    """A run's values by dotted key, where they are not what `es-ray run` with its model takes.

    As others may see them: without folders and secrets.
    """
    defaults = flat(load(flags={"model.path": config.model.path}).model_dump())
    changed = {
        key: _without_folders(key, value)
        for key, value in flat(config.model_dump()).items()
        if value != defaults.get(key) and value != {} and not key.startswith(ELSEWHERE)
    }
    found: dict[str, Any] = masked_tree(changed)
    return found


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
            words += [FLAGS[key], str(value)]
        else:
            words += ["--set", f"{key}={_as_yaml(value)}"]
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
