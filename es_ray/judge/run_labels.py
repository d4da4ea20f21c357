"""What groups of runs are called: the settings in which they differ, as short as tells them apart."""

import textwrap
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PATHS: Final = (
    "model.path",
    "task.name",
    "task.train",
    "task.test",
    "task.validation",
    "evolution.optimizer",
    "engine.kind",
)
"""Keys whose values may be paths, of which the last parts say enough."""
LONGEST_TEXT: Final = 60


def group_labels(differing: Mapping[str, Sequence[Any]], runs: Sequence[Sequence[Path]]) -> list[str]:
    """A label for each group, all of them different.

    differing: the values of each key that differs, by group; runs: the paths of each group's runs, which make
    the label where no key differs, or where labels would be the same.
    """
    names = _short_names(list(differing))
    texts = {key: _distinct_texts(values, key in PATHS) for key, values in differing.items()}
    labels = [", ".join(f"{names[key]}={texts[key][at]}" for key in differing) for at in range(len(runs))]
    folders = _distinct_tails([str(path.resolve()) for of_group in runs for path in of_group])
    found, start = [], 0
    for label, of_group in zip(labels, runs, strict=True):
        own = ", ".join(folders[start : start + len(of_group)])
        start += len(of_group)
        if not label:
            found.append(own)
        else:
            found.append(label if labels.count(label) == 1 else f"{label} ({own})")
    return found


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last parts, as many as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        alone = (tail for tail in tails if not any(other.endswith(f".{tail}") for other in others))
        found[key] = next(alone, key)
    return found


def _distinct_texts(values: Sequence[Any], are_paths: bool) -> list[str]:
    """A text for each value in one line, the shortest form in which different values differ."""
    if are_paths and all(value is None or isinstance(value, str) for value in values):
        named = iter(_distinct_tails([value for value in values if value is not None]))
        return ["none" if value is None else next(named) for value in values]
    forms: tuple[Callable[[Any], str], ...] = (_short, _plain)
    for form in forms:
        texts = [form(value) for value in values]
        if len(set(zip(map(repr, values), texts, strict=True))) == len(set(texts)):
            return texts
    return [repr(value) for value in values]


def _distinct_tails(paths: Sequence[str]) -> list[str]:
    """Paths by their last parts, as many for all as tell different ones apart."""
    parts = [Path(path).parts for path in paths]
    for count in range(1, max(map(len, parts), default=0) + 1):
        tails: list[Hashable] = [each[-count:] for each in parts]
        if len(set(tails)) == len(set(parts)):
            return [str(Path(*each[-count:])) for each in parts]
    return list(paths)


def _short(value: Any) -> str:
    if isinstance(value, str):
        return textwrap.shorten(value, LONGEST_TEXT, placeholder=" ...") or repr(value)
    return f"{value:g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    return "none" if value is None else " ".join(str(value).split())
