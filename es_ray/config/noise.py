"""The keys of each kind of noise: which fit together, in one layer of a configuration and across layers."""

from collections.abc import Mapping
from typing import Any, Final

from es_ray.config.tree import merge

KEYS: Final[dict[str, dict[str, float]]] = {
    "per-layer": {"fraction": 0.1, "multiplier": 22.0},
    "per-module": {"fraction": 0.1, "multiplier": 22.0},
    "constant": {"std": 0.001},
}
"""The keys of each kind, with their defaults."""
ALL: Final = ("fraction", "multiplier", "std")
OF_ANY_KIND: Final = ("schedule",)
"""Keys that go with each kind: they stay where a layer changes the kind."""


def set_keys(noise: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are set."""
    return {key: value for key, value in noise.items() if value is not None}


def kind_of(noise: Mapping[str, Any]) -> Any:
    """The kind that a layer names or implies: std implies constant, multiplier and fraction per-layer."""
    return noise.get("kind") or ("constant" if "std" in noise else "per-layer")


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The noise of two layers merged; a layer of another kind replaces the one below.

    So `--set evolution.noise.std=0.01` over a preset with per-layer noise gives constant noise.
    """
    below, above = set_keys(below), set_keys(above)
    own = {*KEYS.get(kind_of(below), {}), *OF_ANY_KIND}
    fits = above["kind"] == kind_of(below) if "kind" in above else above.keys() <= own
    kept = below if fits else {key: value for key, value in below.items() if key in OF_ANY_KIND}
    return merge(kept, above)
