"""Nested mappings of plain values, as YAML gives them."""

from collections.abc import Mapping, Sequence
from typing import Any


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both merged; the values of `above` win, and a section without keys changes nothing."""
    merged = dict(below)
    for key, value in above.items():
        mine = merged.get(key)
        if not isinstance(mine, dict):
            merged[key] = value
        elif value is not None:
            merged[key] = merge(mine, value) if isinstance(value, dict) else value
    return merged


def put(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Set the value at a path of keys, creating mappings as needed."""
    for key in path[:-1]:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[key]
    tree[path[-1]] = value


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and bool(value)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
