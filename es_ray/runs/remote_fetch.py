"""Brings a run from a store onto this machine, to resume it or to look at it."""

import json
import logging
import shutil
from pathlib import Path
from typing import Final

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.runs.atomic_io import sync_tree
from es_ray.runs.generation_folder import DONE
from es_ray.runs.remote_copy import OWNER
from es_ray.runs.remote_store import RemoteStore, is_remote, local_folder, reaching, remember, remote_of

log = logging.getLogger(__name__)

CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.jsonl", "environment.json"
PARTS: Final = ".fetched"


def fetch(url: str) -> Path:
    """The local folder of a URL's run, with every complete generation of the store; raises UserError.

    A folder that is there already is the same run's: what it has stays, what it lacks is added.
    """
    store, folder = RemoteStore(url), local_folder(url)
    with reaching(store):
        there = store.list()
        if CONFIG not in there:
            raise UserError(f"output.dir: {url}: not a run directory (it has no config.yaml)")
        _check_same_run(store, folder)
        wanted = [name for name in missing(there, folder) if name != OWNER]
        if wanted:
            log.info("fetching %d files of %s", len(wanted), url)
        parts = folder / PARTS
        shutil.rmtree(parts, ignore_errors=True)
        store.get(wanted, parts)
    if parts.exists():
        sync_tree(parts)
    # config.yaml first, and each generation's DONE after all its other files: stopped anywhere, it is a run
    for name in sorted(wanted, key=lambda name: (name != CONFIG, name.endswith(f"/{DONE}"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).replace(folder / name)
    shutil.rmtree(parts, ignore_errors=True)
    remember(folder, store.url)
    return folder


def with_local_folder(config: Config, resume: bool) -> tuple[Config, RemoteStore | None]:
    """The configuration with a folder of this machine in place of a URL, and the store to copy to, if any.

    resume: brings the run here; without, there must be nothing at the URL. Raises UserError.
    """
    given = config.output.dir
    if given is None:
        return config, None
    if not is_remote(given):
        url = remote_of(Path(given).expanduser()) if resume else None
        return config, None if url is None else RemoteStore(url)
    store = RemoteStore(given)
    if resume:
        return config.replace(output__dir=str(fetch(given))), store
    with reaching(store):
        if store.list():
            raise UserError(
                f"output.dir: {given} is not empty; give another folder, or --resume to continue its run"
            )
    return config.replace(output__dir=str(local_folder(given))), store


def missing(there: dict[str, int], folder: Path) -> list[str]:
    """Files to fetch: generations that are complete there and not here, and all else unless here is ahead.

    Which is ahead metrics.jsonl says: it only grows. selected.json and its like go with it.
    """
    complete = {name.removesuffix(f"/{DONE}") for name in there if name.endswith(f"/{DONE}")}
    lacking = {name for name in complete if not (folder / name / DONE).is_file()}
    metrics = folder / METRICS
    is_ahead = metrics.is_file() and metrics.stat().st_size > there.get(METRICS, 0)
    found = []
    for name in there:
        if name.startswith("generations/"):
            wanted = "/".join(name.split("/")[:2]) in lacking
        else:
            wanted = not is_ahead or not (folder / name).exists()
        if wanted:
            found.append(name)
    return found


def _check_same_run(store: RemoteStore, folder: Path) -> None:
    """Raise UserError if the local folder holds another run than the store."""
    local = folder / ENVIRONMENT
    if not local.is_file():
        if folder.exists() and any(path.name != PARTS for path in folder.iterdir()):
            raise UserError(
                f"output.dir: {folder} is not empty, and not the run of {store.url}; move it away"
            )
        return
    content = store.read(ENVIRONMENT)
    if content is None:
        return
    here, there = (json.loads(text) for text in (local.read_bytes(), content))
    if (here.get("date"), here.get("host")) != (there.get("date"), there.get("host")):
        raise UserError(f"output.dir: {folder} holds another run than {store.url}; move it away")
