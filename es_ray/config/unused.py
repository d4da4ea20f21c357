"""Keys that a layer of a configuration sets without effect: a mistake that is refused, not kept silent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from es_ray.errors import UserError

NOT_SGLANG: Final = ("transformers",)
"""Engines that read nothing of engine.sglang; `auto` may be SGLang elsewhere, a user's own may read it."""


def refuse_unused(layer: Mapping[str, Any], tree: Mapping[str, Any], bundled: str) -> None:
    """Raise UserError for a key of a layer that has no effect beside what it, or a layer below, says.

    tree: this layer over those below. A key of a lower layer may be overridden by what makes it superfluous:
    `--engine transformers` with a cluster's file. bundled: what model.path is if it is not set.
    """
    kind, sglang = _get(tree, "engine", "kind"), _get(layer, "engine", "sglang")
    for key, value in sglang.items() if isinstance(sglang, dict) and kind in NOT_SGLANG else ():
        raise UserError(
            f"engine.sglang.{key}: {value!r} has no effect on engine.kind {kind}; it is for sglang"
        )
    path, revision = _get(tree, "model", "path") or bundled, _get(layer, "model", "revision")
    if revision is None or not isinstance(path, str):
        return
    if path == bundled or Path(path).expanduser().is_dir():
        what = f"the folder {path}" if path != bundled else "the bundled model"
        raise UserError(
            f"model.revision: {revision!r} has no effect on {what}; it is for a name on the Hugging Face hub"
        )


def _get(tree: Mapping[str, Any], section: str, key: str) -> Any:
    found = tree.get(section)
    return found.get(key) if isinstance(found, dict) else None
