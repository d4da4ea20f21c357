"""What is wrong with a configuration, as one line for a person."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError


def one_line(error: ValidationError, known: Mapping[str, Any], sections: Iterable[str]) -> str:
    """The first offending key, its value, and what is allowed.

    known: all dotted keys; sections: the top-level names.
    """
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section = ".".join(key.split(".")[:-1])
        inside = [k for k in known if not section or k.startswith(section + ".")]
        near = _meant(key, list(known))
        allowed = near or (inside if section else list(sections))
        text = f"{key}: unknown key; {'did you mean' if near else 'must be one of'} {', '.join(allowed)}"
    else:
        reason = problem["msg"].removeprefix("Value error, ")
        value = problem["input"]
        shown = "" if isinstance(value, (dict, BaseModel)) else f" {value!r} is not allowed:"
        inner, _, rest = reason.partition(": ")
        named = f"{key}.{inner}" if key else inner
        if named in known:  # the check of a section names the key inside it
            key, reason, shown = named, rest, ""
        text = f"{key}:{shown} {reason[0].lower()}{reason[1:]}"
    others = len({e["loc"][:2] for e in error.errors()}) - 1
    return text + (f" (and {others} more)" if others else "")


ABBREVIATIONS = {"lr": "learning_rate", "n": "population", "pop": "population", "sigma": "noise.std"}


def _meant(key: str, known: list[str]) -> list[str]:
    """Suggestions for an unknown key: the same last part in another section, or a similar spelling."""
    last = key.rpartition(".")[2]
    last = ABBREVIATIONS.get(last, last)
    elsewhere = [other for other in known if other == last or other.endswith(f".{last}")]
    return elsewhere or difflib.get_close_matches(key, known, n=3, cutoff=0.75)
