"""A run in a store and in a folder of this machine: which side has what, and whether it is the same."""

import json
from collections.abc import Iterable
from pathlib import Path

from es_ray.errors import UserError
from es_ray.runs.generation_folder import DONE
from es_ray.runs.lock import LOCK
from es_ray.runs.remote_names import ENVIRONMENT, complete, last_of
from es_ray.runs.remote_store import RemoteStore


def complete_in(folder: Path) -> set[str]:
    """The complete generations of a local folder, as they are called in a store."""
    marks = (folder / "generations").glob(f"[0-9]*/{DONE}")
    return {f"generations/{mark.parent.name}" for mark in marks}


def differing(store: RemoteStore, there: Iterable[str], folder: Path) -> set[str]:
    """The generations that are complete on both sides, and not the same.

    So are those that two machines have made: times and workers' names differ, and sizes need not. there: the
    store's files.
    """
    marks = [f"{each}/{DONE}" for each in complete(there) & complete_in(folder)]
    contents = store.read_each(marks)
    return {
        mark.removesuffix(f"/{DONE}") for mark in marks if contents.get(mark) != (folder / mark).read_bytes()
    }


def check_not_behind(url: str, there: Iterable[str], folder: Path) -> None:
    """Raise UserError if the store has complete generations that the folder lacks: it would lose them."""
    lacking = complete(there) - complete_in(folder)
    if lacking:
        raise UserError(
            f"output.dir: {url} has the run up to generation {last_of(lacking)}, which {folder} lacks; go on "
            f"with --resume --output {url}"
        )


def check_same_run(store: RemoteStore, folder: Path) -> None:
    """Raise UserError if the local folder holds another run than the store."""
    local = folder / ENVIRONMENT
    if not local.is_file():
        if folder.exists() and any(
            path.name != LOCK and not path.name.startswith(".") for path in folder.iterdir()
        ):
            raise UserError(
                f"output.dir: {folder} is not empty, and not the run of {store.url}; move it away"
            )
        return
    content = store.read(ENVIRONMENT)
    if content is None:
        return
    here, there = _first_start(local.read_bytes()), _first_start(content)
    if None not in (here, there) and here != there:
        raise UserError(f"output.dir: {folder} holds another run than {store.url}; move it away")


def _first_start(content: bytes) -> tuple[str, str] | None:
    """When and where a run began; None if environment.json is torn, which is no reason to refuse a run."""
    try:
        record = json.loads(content)
        return record["date"], record["host"]
    except (ValueError, KeyError, TypeError):
        return None
