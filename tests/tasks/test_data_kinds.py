"""Files that are no JSONL are named as what they seem to be; none of JSONL is taken for something else."""

import bz2
import csv
import gzip
import json
import lzma
import zipfile

import pytest

from es_ray.errors import UserError
from es_ray.tasks.base import read_examples

ROWS = [{"prompt": f"What is {n}, or its half?", "target": str(n)} for n in range(3)]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS)


def write_csv(file, delimiter=","):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ["prompt", "target"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.jsonl", LINES)


KINDS = {
    "CSV": (write_csv, "a CSV file"),
    "CSV with semicolons": (lambda file: write_csv(file, ";"), "a CSV file"),
    "tabs": (lambda file: write_csv(file, "\t"), "a CSV file"),
    "Parquet": (lambda file: file.write_bytes(b"PAR1\x15\x04\xff\xfePAR1"), "a Parquet file"),
    "gzip": (lambda file: file.write_bytes(gzip.compress(LINES.encode())), "gzip"),
    "bzip2": (lambda file: file.write_bytes(bz2.compress(LINES.encode())), "bzip2"),
    "xz": (lambda file: file.write_bytes(lzma.compress(LINES.encode())), "xz"),
    "zip": (write_zip, "zip archive"),
    "array": (lambda file: file.write_text(json.dumps(ROWS)), "a JSON array"),
    "indented array": (lambda file: file.write_text(json.dumps(ROWS, indent=2)), "a JSON array"),
    "indented object": (lambda file: file.write_text(json.dumps(ROWS[0], indent=2)), "one JSON object"),
    "UTF-16": (lambda file: file.write_text(LINES, encoding="utf-16"), "UTF-16"),
    "UTF-16 without a mark": (lambda file: file.write_text(LINES, encoding="utf-16-le"), "UTF-16"),
    "Git LFS": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"),
    "a web page": (lambda file: file.write_text("<!DOCTYPE html>\n<html>"), "web page"),
    "a folder": (lambda file: file.mkdir(), "a folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_with_what_it_seems_to_be(tmp_path, kind):
    file = tmp_path / "train.data"
    write, words = KINDS[kind]
    write(file)
    with pytest.raises(UserError) as error:
        read_examples(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert words in message
    assert "JSONL is wanted: on each line an object with prompt and target" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.txt"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n", "  "])
def test_jsonl_is_read_whatever_its_name(tmp_path, name, start):
    file = tmp_path / name
    file.write_text(start + LINES, encoding="utf-8")
    assert [(e.prompt, e.target) for e in read_examples(file)] == [(r["prompt"], r["target"]) for r in ROWS]


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000 + "]" * 100_000], ids=["digits", "depth"])
def test_json_that_python_refuses_is_named_with_its_line(tmp_path, value):
    file = tmp_path / "train.jsonl"
    file.write_text(f'{LINES}{{"prompt": "a", "target": "b", "x": {value}}}\n')
    with pytest.raises(UserError, match=r"train\.jsonl, line 4: not valid JSON"):
        read_examples(file)


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_bytes(LINES.encode() + '{"prompt": "Größe", "target": "b"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.jsonl, line 4: cannot be read as UTF-8"):
        read_examples(file)
