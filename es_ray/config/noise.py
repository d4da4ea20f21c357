"""The keys of each kind of noise: which fit together, in one layer of a configuration and across layers."""

from collections.abc import Mapping
from typing import Any, Final

from es_ray.config.model import BUNDLED
from es_ray.config.tree import merge

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "relative": ("relative",),
    "per-layer": ("fraction", "multiplier"),
    "per-module": ("fraction", "multiplier"),
    "constant": ("std",),
}
"""The keys of each kind."""
ALL: Final = ("relative", "fraction", "multiplier", "std")
AUTO: Final = "auto"
"""The value of `relative` that a run replaces by what it finds (`es_ray.judge.calibrate`)."""
OF_ANY_KIND: Final = ("schedule",)
"""Keys that go with each kind: they stay where a layer changes the kind."""
RELATIVE: Final = {"b": 0.03, "both": 0.0125, "merged": 0.03}
"""The default of `relative` for each form of adapter."""


def default(key: str, form: str, path: str) -> float:
    """A key's value where it applies and is not set; form: lora.form; path: model.path.

    The bundled model's multiplier would wreck any other model.
    """
    multiplier = 22.0 if path == BUNDLED else 1.0
    return {"relative": RELATIVE[form], "fraction": 0.1, "multiplier": multiplier, "std": 0.001}[key]


def set_keys(noise: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are set."""
    return {key: value for key, value in noise.items() if value is not None}


def kind_of(noise: Mapping[str, Any]) -> Any:
    """The kind that a layer names or implies: std implies constant, multiplier and fraction per-layer."""
    given = set_keys(noise)
    if "kind" in given:
        return given["kind"]
    implied = {"std": "constant", "multiplier": "per-layer", "fraction": "per-layer"}
    return next((kind for key, kind in implied.items() if key in given), "relative")


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The noise of two layers merged; a layer of another kind replaces the one below.

    So `--set evolution.noise.std=0.01` over a preset with per-layer noise gives constant noise.
    """
    below, above = set_keys(below), set_keys(above)
    own = {*KEYS.get(kind_of(below), ()), *OF_ANY_KIND}
    fits = above["kind"] == kind_of(below) if "kind" in above else above.keys() <= own
    kept = below if fits else {key: value for key, value in below.items() if key in OF_ANY_KIND}
    return merge(kept, above)


def layered_trees(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers merged; noise of another kind replaces the lower layer's, whose keys do not apply to it."""
    merged = merge(below, above)
    lower, upper = (_section(tree) for tree in (below, above))
    if lower and upper:
        merged["evolution"] = merged["evolution"] | {"noise": layered(lower, upper)}
    return merged


def _section(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The section evolution.noise of a tree; empty unless it is a mapping."""
    evolution = tree.get("evolution")
    found = evolution.get("noise") if isinstance(evolution, dict) else None
    return found if isinstance(found, dict) else {}
