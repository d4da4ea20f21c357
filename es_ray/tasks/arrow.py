"""Rows of Parquet files, and of data sets that the package `datasets` loads: the extra `data`."""

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.rows import Rows

HF = "hf:"
FORM = re.compile(r"hf:(?P<name>.+?)(?:@(?P<config>[^@/:]+))?:(?P<split>\w[\w.+-]*(?:\[[\d:%+-]*\])?)")


def parquet_rows(content: bytes, name: str) -> Rows:
    """The rows of a Parquet file; raises UserError if it cannot be read."""
    arrow, parquet = _package("pyarrow", name), _package("pyarrow.parquet", name)
    try:
        table = parquet.read_table(arrow.BufferReader(content))
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{name}: cannot be read as Parquet: {_first_line(error)}") from error
    return _rows(table, name)


def hub_rows(name: str) -> Rows:
    """The rows of hf:NAME[@CONFIG]:SPLIT; raises UserError for another form, and if it cannot be loaded.

    NAME: of a data set on the Hugging Face hub, or a folder of data files; SPLIT: also a part, train[:1000].
    """
    parts = FORM.fullmatch(name)
    if parts is None:
        raise UserError(f"{name}: must be hf:NAME[@CONFIG]:SPLIT, such as {HF}openai/gsm8k@main:train")
    datasets = _package("datasets", name)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    source = str(Path(parts["name"]).expanduser())
    try:
        found = datasets.load_dataset(source, parts["config"], split=parts["split"])
        table = found.with_format("arrow")[:]  # images and sounds stay bytes
    except Exception as error:  # whatever it meets: the network, the hub, a torn file
        reason = f"{type(error).__name__}: {_first_line(error)}"
        where = " (not in the local cache, and it cannot be downloaded)"
        raise UserError(
            f"{name}: cannot be loaded{where if isinstance(error, ConnectionError) else ''}: {reason}"
        ) from error
    return _rows(table, name)


def absolute_hub_name(name: str) -> str:
    """hf:NAME[@CONFIG]:SPLIT with the path made absolute, if NAME is a folder here; else as it is."""
    parts = FORM.fullmatch(name)
    if parts is None or not Path(parts["name"]).expanduser().is_dir():
        return name
    return f"{HF}{Path(parts['name']).expanduser().resolve()}{name[parts.end('name') :]}"


def _rows(table: Any, name: str) -> Rows:
    return Rows(name, "row", table.to_pylist(), range(1, table.num_rows + 1))


def _package(name: str, wanted_for: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{wanted_for}: needs {name}, which cannot be imported ({error}): pip install 'es-ray[data]'"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "no reason given")
