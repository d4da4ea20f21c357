"""Names of a run's files in a store: which generations they make up, and in which order they go and come."""

from collections.abc import Container, Iterable
from typing import Final

from es_ray.runs.generation_folder import DONE, DROPPABLE

CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.jsonl", "environment.json"
OWNER: Final = "owner.json"
"""Says in the store which driver copies there: a later one takes over, and the earlier one stops."""
OF_AN_END: Final = ("test_results.json", "selected.json", "report.html")
"""Files that are removed when a run is resumed, as they are of an earlier end."""
PLOTS: Final = "plots/"
APPENDED: Final = ("tensorboard/", "wandb/")
"""Folders of the trackers, whose files only grow."""


def generation_of(name: str) -> str | None:
    """The folder of the generation that a file belongs to; None for other files.

    >>> generation_of("generations/0003/adapter/README.md"), generation_of("metrics.jsonl")
    ('generations/0003', None)
    """
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == "generations" and len(parts) > 2 else None


def number(generation: str) -> int:
    """The number of a generation's folder; -1 for other names."""
    last = generation.rpartition("/")[2]
    return int(last) if last.isdecimal() else -1


def complete(names: Iterable[str]) -> set[str]:
    """The folders of the generations that are marked complete."""
    return {
        name.removesuffix(f"/{DONE}") for name in names if generation_of(name) and name.endswith(f"/{DONE}")
    }


def last_of(generations: Iterable[str]) -> int:
    """The number of the last of some generations; -1 without any."""
    return max(map(number, generations), default=-1)


def in_order(names: Iterable[str]) -> list[list[str]]:
    """Groups of files, each to be there before the next: what marks a generation as complete is the last."""
    groups: tuple[list[str], ...] = ([], [], [], [])
    for name in names:
        if name == CONFIG:  # without it the rest is no run
            groups[0].append(name)
        elif generation_of(name) is None:
            groups[2].append(name)
        else:
            groups[3 if name.endswith(f"/{DONE}") else 1].append(name)
    return [group for group in groups if group]


def may_vanish(name: str) -> bool:
    """Whether a run itself removes such a file while it goes on: by pruning, by thinning its plots."""
    return name.startswith(PLOTS) or (generation_of(name) is not None and name.split("/")[2] in DROPPABLE)


def removable(gone: Iterable[str], here: Container[str], lines: int | None) -> list[str]:
    """Of files that the store has and the folder lacks, those to remove there, in their order.

    Only what a run removes itself: a folder that was lost, or cannot be read, must not empty the store. Of a
    generation that is complete here that is what pruning drops; others are removed if metrics.jsonl does not
    have their line, as after resuming from an earlier one. here: all files of the folder; lines: of its
    metrics.jsonl, None if it has none.
    """
    found = []
    for name in gone:
        generation = generation_of(name)
        if generation is None:
            wanted = name in OF_AN_END or name.startswith(PLOTS)
        elif f"{generation}/{DONE}" in here:
            wanted = may_vanish(name)
        else:
            wanted = lines is not None and number(generation) >= lines
        if wanted:
            found.append(name)
    # the newest first, and its DONE before the rest: stopped anywhere, what is left can be resumed
    return sorted(found, key=lambda name: (not name.endswith(f"/{DONE}"), -number(generation_of(name) or "")))
