"""Comparing runs: `es-ray compare`, and `es_ray.compare` in Python."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from es_ray.errors import UserError
from es_ray.judge.comparison import Comparison, final_results
from es_ray.judge.comparison_table import as_markdown
from es_ray.judge.run_groups import ComparedRun, grouped
from es_ray.runs.atomic_io import write_bytes, write_json, write_text

FILES: Final = ("compare.png", "compare.md", "compare.json")


def compare(runs: Sequence[str | Path], output: str | Path | None = None) -> Comparison:
    """Compare runs, finished or not; those that differ in the seed alone are one group.

    output: a folder for compare.png, compare.md and compare.json; None writes nothing. Raises UserError for
    what is no run or has no finished generation, before anything is written, and for a folder that cannot be
    written; RunError for torn files.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise UserError("compare: at least two runs are needed")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: is named twice")
        seen.add(path.resolve())
    folder = None if output is None else Path(output)
    if folder is not None:
        blocking = next((each for each in (folder, *folder.parents) if each.exists()), None)
        if blocking is not None and not blocking.is_dir():
            raise UserError(f"--output {folder}: {blocking} is not a folder")
    groups, differing = grouped([ComparedRun.read(path) for path in paths])
    found = Comparison(groups, differing, [final_results(group) for group in groups])
    if folder is not None:
        _write(found, folder)
    return found


def _write(comparison: Comparison, folder: Path) -> None:
    """Write FILES, once all of them are made; raises UserError if they cannot be written."""
    from es_ray.judge.comparison_figure import comparison_figure  # matplotlib is slow to load

    picture, text, data = io.BytesIO(), as_markdown(comparison), comparison.as_json()
    comparison_figure(comparison.groups, picture)
    png, markdown, numbers = (folder / name for name in FILES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(png, picture.getvalue())
        write_text(markdown, text)
        write_json(numbers, data)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written: {error.strerror}") from error
