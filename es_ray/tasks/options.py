"""Checks of `task.options` that several tasks share; what does not fit is a UserError with its name."""

from typing import Any

from es_ray.errors import UserError


def share(name: str, value: Any) -> float:
    """A weight from 0 to 1."""
    return number(name, value, 0, 1)


def number(name: str, value: Any, low: float, high: float = float("inf")) -> float:
    """A number within bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise UserError(f"task.options.{name}: {value!r} must be a number {_within(low, high)}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number within bounds, both included."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
        bounds = _within(low, float("inf") if high is None else high)
        raise UserError(f"task.options.{name}: {value!r} must be a whole number {bounds}")
    return value


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of several words."""
    if value not in allowed:
        raise UserError(f"task.options.{name}: {value!r} must be one of {', '.join(allowed)}")
    return str(value)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise UserError(f"task.options.{name}: {value!r} must be true or false")
    return value


def _within(low: float, high: float) -> str:
    return f"of at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
