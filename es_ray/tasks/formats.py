"""Rows of data files: JSONL, JSON and CSV; es_ray.tasks.arrow reads the other formats."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from es_ray.errors import UserError
from es_ray.tasks.arrow import HF, hub_rows, parquet_rows
from es_ray.tasks.rows import Row, Rows

WANTED = "a file of JSONL, JSON, CSV or Parquet, or hf:NAME[@CONFIG]:SPLIT"
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
LONGEST_CELL = 1 << 30


def read_rows(data: str | Path) -> Rows:
    """The rows of a data file, in the format of its suffix, else of its content; gzip is unpacked.

    data: a path, or hf:NAME[@CONFIG]:SPLIT. Raises UserError with file and line for what cannot be read, and
    for data without any row.
    """
    if str(data).startswith(HF):
        found = hub_rows(str(data))
    else:
        path = Path(data).expanduser()
        content = _content(path)
        unpacked = path.with_suffix("") if path.suffix == ".gz" else path
        read = FORMATS.get(unpacked.suffix.lower()) or _by_content(content, path)
        found = read(content, str(path))
    if not found.rows:
        raise UserError(f"{data}: holds no examples")
    return found


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file ({WANTED} is wanted)")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _by_content(content: bytes, path: Path) -> Callable[[bytes, str], Rows]:
    if content.startswith(PARQUET):
        return FORMATS[".parquet"]
    first = _text(content, str(path)).lstrip()[:1]
    if first not in ("", "{", "["):
        known = ", ".join(FORMATS)
        raise UserError(f"{path}: neither JSON nor Parquet, and its name ends in none of {known}")
    return _json if first == "[" else _jsonl


def _text(content: bytes, name: str) -> str:
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell's > writes
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {line}: cannot be read as UTF-8 text: {error}") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")  # Python's own reader takes NaN and Infinity


_decoded = json.JSONDecoder(parse_constant=_no_constant).decode


def _jsonl(content: bytes, name: str) -> Rows:
    """An object on each line; blank lines are passed over."""
    rows, places = list[Row](), list[int]()
    for number, line in enumerate(_text(content, name).split("\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            row = _decoded(line)
        except (ValueError, RecursionError) as error:
            wanted = "each line of a JSONL file is an object with prompt and target"
            if number == 1 and line.startswith("["):
                wanted += "; an array of objects is read from a file whose name ends in .json"
            raise UserError(f"{name}, line {number}: not valid JSON ({_said(error)}): {wanted}") from error
        if type(row) is not dict or _may_hold_halves(line):
            _check_object(row, f"{name}, line {number}")
        rows.append(row)
        places.append(number)
    return Rows(name, "line", rows, places)


def _json(content: bytes, name: str) -> Rows:
    """An array of objects; or JSONL, as many files with that suffix are."""
    text = _text(content, name)
    if not text.lstrip().startswith("["):
        return _jsonl(content, name)
    try:
        rows = _decoded(text)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{name}{where}: not valid JSON ({_said(error)})") from error
    halves = _may_hold_halves(text)
    for number, row in enumerate(rows, start=1):
        if type(row) is not dict or halves:
            _check_object(row, f"{name}, row {number}")
    return Rows(name, "row", rows, range(1, len(rows) + 1))


def _said(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _may_hold_halves(text: str) -> bool:
    """Whether JSON has escapes of surrogates, the only way to a half of a pair; most pairs are whole."""
    return "\\ud" in text or "\\uD" in text


def _check_object(row: object, where: str) -> None:
    """Raise UserError unless a row is an object of texts that UTF-8 can hold."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: an object with prompt and target is wanted, not {json.dumps(row)[:80]}")
    for key, value in row.items():
        try:
            json.dumps({key: value}, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: {key!r} holds half of a surrogate pair") from error


def _csv(content: bytes, name: str) -> Rows:
    """Cells below a header, separated by commas, semicolons or tabs; an empty cell is None."""
    text = re.sub(r'"[ \t]+(?=\r?\n|\Z)', '"', _text(content, name))  # blanks after a closing quote
    header = text.lstrip("\r\n").partition("\n")[0]
    separator = max(",;\t", key=header.count)  # the first of them for a header of one name
    limit = csv.field_size_limit(LONGEST_CELL)  # 128 kB are too few for a long prompt
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names, rows, places, last = list[str](), list[Row](), list[int](), 0
        for cells in reader:
            line, last = last + 1, reader.line_num  # a quoted cell may have several lines
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = _header(cells, f"{name}, line {line}")
                continue
            rows.append(_named(names, cells, f"{name}, line {line}"))
            places.append(line)
    except csv.Error as error:
        raise UserError(f"{name}, line {last + 1}: no valid CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return Rows(name, "line", rows, places)


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"{where}: the header has {twice!r} more than once")
    return names


def _named(names: list[str], cells: list[str], where: str) -> Row:
    if len(cells) < len(names) or any(cells[len(names) :]):
        raise UserError(
            f"{where}: {len(cells)} cells, the header names {len(names)}; "
            "a text with separators or line ends in it must be in quotes"
        )
    return {name: cell or None for name, cell in zip(names, cells, strict=False) if name}


FORMATS: dict[str, Callable[[bytes, str], Rows]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": parquet_rows,
}  # fmt: skip
"""What reads a file's content, by the suffix of its name."""
