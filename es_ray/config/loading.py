"""Where the configuration's values come from: a preset, a file, `--set`, flags.

A flag overrides `--set`, which overrides the file, which overrides the preset. Anything unknown or invalid is
a UserError of one line that names the key, the value and what is allowed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from es_ray.config.format import FORMER_DEFAULTS, is_recorded, migrated
from es_ray.config.model import BUNDLED
from es_ray.config.noise import layered_trees
from es_ray.config.sections import Config
from es_ray.config.tree import flat, put
from es_ray.config.unused import refuse_unused
from es_ray.errors import UserError

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET, GENERAL_PRESET = "tiny-chat", "general"
"""The preset of a run without one: for the bundled model, and for any other."""
RESUMABLE = (
    "evolution.generations",
    "cluster.",
    "output.",
    "tracking.",
    "guard.",
    "engine.sglang.mem_fraction_static",
    "engine.shard",
    "engine.threads",
    "engine.processes",
)
"""Keys that a resumed run may change; all of a section where the name ends with a dot."""
CHANGE_BYTES = ("engine.shard", "engine.threads")
"""The ones among them that may change bytes: another batch size rounds sums differently."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times as fast, where it is there


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

    Without a preset: the bundled model's, or the general one for any other model. What a file that a run has
    written lacks gets the value that was built in when it was written.

    file: a path; preset: one of `preset_names`; sets: "section.key=value" each; flags: values by
    dotted key, None for unset ones. Raises UserError of one line that names the key, its value
    and what is allowed.
    """
    given = as_tree(sets, flags)
    read = _read_yaml(Path(file)) if file is not None else {}
    layer = migrated(read, file) if file is not None else {}
    path = _model_path(given) or _model_path(layer) or BUNDLED
    if preset is None:
        preset = DEFAULT_PRESET if path == BUNDLED else GENERAL_PRESET
    if preset not in preset_names():
        raise UserError(f"--preset {preset}: no such preset; choose from {', '.join(preset_names())}")
    tree = _read_yaml(PRESETS_DIR / f"{preset}.yaml")
    if is_recorded(read):  # by a run, whose layers are one there
        tree = layered_trees(layered_trees(tree, FORMER_DEFAULTS), layer)
    else:
        tree = layered_trees(tree, layer)
        refuse_unused(layer, tree, layered_trees(tree, given))
    tree = layered_trees(tree, given)
    refuse_unused(given, tree, tree)
    return Config.parse(tree)


def _model_path(tree: Mapping[str, Any]) -> Any:
    model = tree.get("model")
    return model.get("path") if isinstance(model, dict) else None


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


def is_given(
    key: str, file: str | Path | None, sets: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> bool:
    """Whether a file, sets or flags, as for `load`, give that dotted key. Raises UserError."""
    trees = [as_tree(sets, flags), _read_yaml(Path(file)) if file is not None else {}]
    return any(key in flat(tree) for tree in trees)


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
        tree = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except yaml.MarkedYAMLError as error:
        mark, opened = error.problem_mark, error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        began = "" if opened is None else f" ({error.context} that begins in line {opened.line + 1})"
        said = error.problem or " ".join(str(error).split())
        raise UserError(f"{path}{where}: not valid YAML: {said}{began}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must have sections such as 'evolution:' at the top")
    return tree
