"""The format number of a run's files, by which they are read, migrated or refused, never misread.

Version 0.1.0 wrote config.yaml without a number, and state.json with 2. Its keys keep their meaning, and
those that it lacks get the value that was built into 0.1.0.
"""

from typing import Any, Final

from es_ray.errors import UserError

FORMAT: Final = 3
OLDEST: Final = 2


def checked_format(number: object, where: object) -> int:
    """The number, if this version can read it; raises UserError that names the file and the number."""
    if not isinstance(number, int) or isinstance(number, bool) or number < OLDEST:
        raise UserError(f"{where}: format {number!r} was never written by es-ray")
    if number > FORMAT:
        raise UserError(
            f"{where}: format {number} is from a newer es-ray; this one reads up to {FORMAT}: upgrade it"
        )
    return number


def migrated(tree: dict[str, Any], where: object) -> dict[str, Any]:
    """The tree of a configuration file in the current format, without its number.

    A file without one is a user's own, or 0.1.0's.
    """
    rest = dict(tree)
    checked_format(rest.pop("format", OLDEST), where)
    if _is_of_0_1_0(tree):
        rest.pop("tracking")
        evolution = rest.get("evolution")
        noise = evolution.get("noise") if isinstance(evolution, dict) else None
        if isinstance(evolution, dict) and isinstance(noise, dict) and set(noise) == WRITTEN_BY_0_1_0:
            rest["evolution"] = evolution | {"noise": _applicable(noise)}
        if isinstance(rest.get("engine"), dict):
            rest["engine"] = {"rows": UNBOUNDED} | rest["engine"]
    return rest


def is_recorded(tree: dict[str, Any]) -> bool:
    """Whether a configuration file, as it was read, is one that a run has written."""
    return "format" in tree or _is_of_0_1_0(tree)


def _is_of_0_1_0(tree: dict[str, Any]) -> bool:
    """Whether 0.1.0 wrote it: without a number, and with that section, which held nothing."""
    return "format" not in tree and tree.get("tracking", ()) in ({}, None)


FORMER_DEFAULTS: Final[dict[str, Any]] = {
    "lora": {"form": "both"},
    "evolution": {
        "learning_rate": 0.05,
        "update_scale": "absolute",
        "antithetic": False,
        "noise": {"kind": "per-layer", "fraction": 0.1, "multiplier": 22.0},
    },
    "task": {"batch": None},
    "evaluation": {"kl_every": None},
    "engine": {"threads": 1},
    "output": {"keep": None},
}
"""What keys that a run's file may lack meant when it was written, where the default is another one today."""


UNBOUNDED: Final = 1_000_000_000
"""Rows of a batch in 0.1.0: a shard was one batch, and another one would round differently."""


WRITTEN_BY_0_1_0: Final = {"kind", "fraction", "multiplier", "std"}


def _applicable(noise: dict[str, Any]) -> dict[str, Any]:
    """0.1.0's noise without the keys that had no effect: it wrote all of them."""
    without = ("fraction", "multiplier") if noise["kind"] == "constant" else ("std",)
    return {key: value for key, value in noise.items() if key not in without}
