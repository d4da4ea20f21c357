"""Keys that a layer of a configuration sets without effect: a mistake that is refused, not kept silent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from es_ray.config.model import BUNDLED, LoraConfig
from es_ray.errors import UserError

NOT_SGLANG: Final = ("transformers",)
"""Engines that read nothing of engine.sglang; `auto` may be SGLang elsewhere, a user's own may read it."""


def refuse_unused(layer: Mapping[str, Any], tree: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """Raise UserError for a key of a layer that has no effect there, nor in the whole configuration.

    tree: this layer over those below; whole: all layers. A higher layer may make a key superfluous
    (`--engine transformers` with a cluster's file), or give it its effect (`--model` beside a revision).
    """
    still = _unused(layer, whole)
    for key, said in _unused(layer, tree).items():
        if key in still:
            raise UserError(said)


def _unused(layer: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each of a layer's keys that has no effect in a tree, by dotted key."""
    found = {}
    kind, sglang = _get(tree, "engine", "kind"), _get(layer, "engine", "sglang")
    if isinstance(sglang, dict) and kind in NOT_SGLANG:
        for key, value in sglang.items():
            name = f"engine.sglang.{key}"
            found[name] = f"{name}: {value!r} has no effect on engine.kind {kind}; it is for sglang"
    form, init = _get(tree, "lora", "form") or LoraConfig().form, layer.get("init")
    if isinstance(init, dict) and form != "both":
        for key, value in init.items():
            found[f"init.{key}"] = f"init.{key}: {value!r} has no effect on lora.form {form}; it is for both"
    alpha = _get(layer, "lora", "alpha")
    if alpha is not None and form == "merged":
        found["lora.alpha"] = f"lora.alpha: {alpha!r} has no effect on lora.form merged"
    every = _get(layer, "output", "checkpoint_every")
    if every is not None and form != "merged":
        found["output.checkpoint_every"] = (
            f"output.checkpoint_every: {every!r} has no effect on lora.form {form}; it is for merged"
        )
    path, revision = _get(tree, "model", "path") or BUNDLED, _get(layer, "model", "revision")
    if revision is None or not isinstance(path, str):
        return found
    if path == BUNDLED or Path(path).expanduser().is_dir():
        what = f"the folder {path}" if path != BUNDLED else "the bundled model"
        found["model.revision"] = (
            f"model.revision: {revision!r} has no effect on {what}; it is for a name on the Hugging Face hub"
        )
    return found


def _get(tree: Mapping[str, Any], section: str, key: str) -> Any:
    found = tree.get(section)
    return found.get(key) if isinstance(found, dict) else None
