"""Where the configuration's values come from: a preset, a file, `--set`, flags.

A flag overrides `--set`, which overrides the file, which overrides the preset. Anything unknown or invalid is
a UserError of one line that names the key, the value and what is allowed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from es_ray.config.format import is_recorded, migrated
from es_ray.config.model import BUNDLED
from es_ray.config.noise import layered
from es_ray.config.sections import Config
from es_ray.config.tree import flat, merge, put
from es_ray.config.unused import refuse_unused
from es_ray.errors import UserError

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET, GENERAL_PRESET = "tiny-chat", "general"
"""The preset of a run without preset and file: for the bundled model, and for any other."""
RESUMABLE = (
    "evolution.generations",
    "cluster.",
    "output.",
    "guard.",
    "engine.sglang.mem_fraction_static",
    "engine.shard",
    "engine.threads",
)
"""Keys that a resumed run may change; all of a section where the name ends with a dot."""
CHANGE_BYTES = ("engine.shard", "engine.threads")
"""The ones among them that may change bytes: another batch size rounds sums differently."""


def preset_names() -> list[str]:
    """The presets that come with es-ray."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load(
    file: str | Path | None = None,
    preset: str | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """A configuration from a preset, overridden by a YAML file, by sets, and by flags.

    Without preset and file: the bundled model's preset, or the general one for any other model.

    file: a path; preset: one of `preset_names`; sets: "section.key=value" each; flags: values by
    dotted key, None for unset ones. Raises UserError of one line that names the key, its value
    and what is allowed.
    """
    given = as_tree(sets, flags)
    path = given.get("model", {}).get("path", BUNDLED) if isinstance(given.get("model"), dict) else BUNDLED
    if preset is None and file is None:
        preset = DEFAULT_PRESET if path == BUNDLED else GENERAL_PRESET
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise UserError(f"--preset {preset}: no such preset; choose from {', '.join(preset_names())}")
        tree = _read_yaml(PRESETS_DIR / f"{preset}.yaml")
    if file is not None:
        read = _read_yaml(Path(file))
        layer = migrated(read, file)
        tree = _layered(tree, layer)
        if not is_recorded(read):  # by a run, whose layers are one there
            refuse_unused(layer, tree, _layered(tree, given))
    tree = _layered(tree, given)
    refuse_unused(given, tree, tree)
    return Config.parse(tree)


def _layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers merged; noise of another kind replaces the lower layer's, whose keys do not apply to it."""
    merged = merge(below, above)
    lower, upper = (_noise(tree) for tree in (below, above))
    if lower and upper:
        merged["evolution"] = merged["evolution"] | {"noise": layered(lower, upper)}
    return merged


def _noise(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The section evolution.noise of a tree; empty unless it is a mapping."""
    evolution = tree.get("evolution")
    found = evolution.get("noise") if isinstance(evolution, dict) else None
    return found if isinstance(found, dict) else {}


def as_tree(sets: Sequence[str], flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`--set` and flags as a tree; flags win. Raises UserError for what is not section.key=value."""
    tree: dict[str, Any] = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {item}: must be section.key=value")
        try:
            put(tree, key.strip().split("."), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(f"--set {item}: the value is not valid YAML") from error
    for key, value in (flags or {}).items():
        if value is not None:
            put(tree, key.split("."), value)
    return tree


def differences(old: Config, new: Config) -> list[str]:
    """Dotted keys in which two configurations differ, except those that a resumed run may change."""
    changed = _changed(old, new)
    return [
        f"{key} ({before!r} there, {after!r} now)"
        for key, (before, after) in changed.items()
        if not any(key == may or may.endswith(".") and key.startswith(may) for may in RESUMABLE)
    ]


def changed_bytes(old: Config, new: Config) -> list[str]:
    """Dotted keys that a resumed run has changed and may change, but which may change bytes."""
    return [key for key in _changed(old, new) if key in CHANGE_BYTES]


def _changed(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Values of both by dotted key, where they differ; an empty mapping counts as none."""
    before, after = (
        {key: value for key, value in flat(config.model_dump()).items() if value != {}}
        for config in (old, new)
    )
    pairs = {key: (before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must have sections such as 'evolution:' at the top")
    return tree
