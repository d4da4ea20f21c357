"""The run directory that a driver may write: a new one, or one to resume; checked, and locked."""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from es_ray.config import BUNDLED, RESUMABLE, Config, GuardConfig, changed_bytes, differences
from es_ray.errors import UserError
from es_ray.imports import short_name
from es_ray.runs.lock import holder
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)

MOST_NAMED = 5
"""How many changed keys a refusal names."""


@contextmanager
def locked_run_dir(config: Config, resume: bool) -> Iterator[RunDir]:
    """The run directory to write, locked until the end; raises UserError if that is not possible.

    A new run's is locked when it is created (`RunDir.create`): until then nothing is written.
    """
    run = open_for_resume(config) if resume else new_run_dir(config)
    try:
        if resume:
            run.lock()
            open_for_resume(config)  # again: another driver may have resumed it before we had the lock
            _warn_of_other_bytes(run.config(), config)
        yield run
    finally:
        run.release()


def new_run_dir(config: Config, kind: str | None = None) -> RunDir:
    """The run directory for a new run; raises UserError if it holds anything. Writes nothing.

    kind: what is to be written instead of a run; its folder's name begins with it.
    """
    if config.output.dir is None:
        name = Path(config.model.path).name if config.model.path != BUNDLED else "tiny-chat"
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        words = [*([kind] if kind else []), name, short_name(config.task.name), stamp]
        plain = Path("runs") / "-".join(words)
        others = (plain.with_name(f"{plain.name}-{number}") for number in itertools.count(2))
        path = next(path for path in itertools.chain([plain], others) if not path.exists())
    else:
        path = Path(config.output.dir).expanduser()
    run = RunDir(path)
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"output.dir: {path} is not a folder")
        if not run.is_empty():
            raise UserError(
                holder(path)
                or f"output.dir: {path} is not empty; give another folder, or --resume to continue its run"
            )
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(f"output.dir: {path} cannot be written: {existing} is read-only for this user")
    except OSError as error:
        raise UserError(f"output.dir: {str(path)[:200]} cannot be used: {error.strerror}") from error
    return run


def open_for_resume(config: Config) -> RunDir:
    """The run directory to resume; raises UserError for a change that is not allowed. Writes nothing."""
    if config.output.dir is None:
        raise UserError("--resume: which run? Give its folder with --output")
    run = RunDir.open(Path(config.output.dir).expanduser())
    changed = differences(run.config(), config)
    if changed:
        named, more = changed[:MOST_NAMED], len(changed) - MOST_NAMED
        raise UserError(
            f"--resume: {run.path} was started with other settings: {'; '.join(named)}"
            + (f"; and {more} more" if more > 0 else "")
            + f". Only {', '.join(key + '*' * key.endswith('.') for key in RESUMABLE)} may change"
        )
    if config.guard != GuardConfig() and run.is_in_form_of_0_1_0():
        raise UserError(
            f"guard: {run.path} goes on in the form of version 0.1.0, which had no guard; leave it out"
        )
    last = run.last_complete()
    if last >= config.evolution.generations:
        raise UserError(
            f"evolution.generations: {config.evolution.generations} is less than the {last + 1} generations "
            f"that {run.path} already has"
        )
    return run


def _warn_of_other_bytes(before: Config, after: Config) -> None:
    if before.guard != after.guard:
        log.warning("--resume with another guard: the run is the same as without the change up to here only")
    changed = changed_bytes(before, after)
    if changed:
        log.warning(
            "--resume with another %s: completions may differ from those of a run without the change, and so "
            "may all bytes from here on",
            " and ".join(changed),
        )
