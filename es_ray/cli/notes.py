"""Lines about defaults that might surprise whoever gave their own model or data."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_ray.config import BUNDLED, GENERAL_PRESET, Config
from es_ray.config.loading import is_given
from es_ray.tasks import TASKS

_AS_LONG: Final = "rewards answers that are as long as the target, in characters, right or wrong"
REWARDS: Final = {"conciseness": _AS_LONG, "conciseness-validated": _AS_LONG}
"""What the default tasks reward: those of the two presets that apply where none is named."""


def run_notes(
    config: Config, file: Path | None, preset: str | None, sets: Sequence[str], flags: Mapping[str, Any]
) -> list[str]:
    """Those of a run with this configuration; what was given for it: as for `es_ray.config.load`."""
    notes = []
    if preset is None and file is None and config.model.path != BUNDLED:
        notes.append(
            "no preset or file was given: noise and step are general defaults, not tuned for this model "
            "(choose others with --preset, or --set evolution.noise.relative=...)"
        )
    return [*notes, *task_notes(config, file, preset, sets, flags), *_split_notes(config)]


def task_notes(
    config: Config, file: Path | None, preset: str | None, sets: Sequence[str], flags: Mapping[str, Any]
) -> Iterator[str]:
    """One where data were given but no task, nor a preset for one, so that it is a default."""
    task = config.task
    own_data = any((task.train, task.test, task.validation))
    named = preset not in (None, GENERAL_PRESET) or is_given("task.name", file, sets, flags)
    if own_data and not named:
        yield f"no task was given: {task.name} {REWARDS[task.name]} (choose another with --task)"


def _split_notes(config: Config) -> Iterator[str]:
    task, own = config.task, TASKS.get(config.task.name)
    validated = own is not None and own.validation is not None
    for split, comes in {"test": True, "validation": validated}.items():
        if task.train is not None and getattr(task, split) is None and comes:
            yield (
                f"task.{split} is not set: the {split} prompts are the ones that come with the task "
                f"{task.name}"
            )
