"""The configuration that the options of `es-ray run` ask for; `es-ray calibrate` takes the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_ray.config import Config, load
from es_ray.config.loading import as_tree
from es_ray.errors import UserError


def requested(
    file: Path | None,
    preset: str | None,
    sets: Sequence[str],
    flags: Mapping[str, Any],
    local: bool,
) -> Config:
    """The configuration; flags: values by dotted key, None for unset ones; local: whether --local was given.

    Raises UserError.
    """
    workers, address = flags["cluster.workers"], flags["cluster.address"]
    if local:
        _refuse_beside_local(workers, address, sets)
        flags = {**flags, "cluster.workers": 0, "engine.processes": 1}
        sets = [*sets, "cluster.address=null"]
    config = load(file, preset, sets, flags)
    if address is not None and workers is None and config.cluster.workers == 0:
        return config.replace(cluster__workers="auto")  # an address implies Ray
    return config


def _refuse_beside_local(workers: int | None, address: str | None, sets: Sequence[str]) -> None:
    """Raise UserError for another place on the same command line; a configuration file may name one."""
    tree = as_tree(sets)
    given = Config.parse({key: tree[key] for key in ("cluster", "engine") if tree.get(key) is not None})
    wanted = {
        "--workers": workers,
        "--address": address,
        "--set cluster.workers": given.cluster.workers not in (0, "auto"),
        "--set cluster.address": given.cluster.address is not None,
    }
    for name, value in wanted.items():
        if value:
            raise UserError(f"--local: runs without Ray; leave out {name}")
    if given.engine.processes not in (1, "auto"):
        raise UserError("--local: runs in one process; leave out --set engine.processes")
