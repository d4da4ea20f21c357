"""Parquet files and data sets, where the extra `data` is installed; and what is said where it is not."""

import importlib.util
import json
import os
import subprocess
import sys
from datetime import date
from decimal import Decimal

import pytest

from es_ray.errors import UserError
from es_ray.tasks import Example, Score, Task
from es_ray.tasks.arrow import FORM
from es_ray.tasks.data import absolute_data, examples_of, fingerprint

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="needs the extra: pip install -e '.[data]'"
)
USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be short."}
ROWS = [{"prompt": f"What is {n}?", "target": n, "level": "easy"} for n in range(5)]
EXPECTED = [Example(r["prompt"], r["target"], {"level": "easy"}) for r in ROWS]


class Anything(Task):
    """Takes any example."""

    def score(self, example, completion):
        return Score(0.0)


def refusal(data) -> str:
    with pytest.raises(UserError) as error:
        examples_of(data, Anything())
    message = str(error.value)
    assert str(data) in message
    assert "\n" not in message
    return message


def parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:openai/gsm8k:train", ("openai/gsm8k", None, "train")),
        ("hf:openai/gsm8k@main:test", ("openai/gsm8k", "main", "test")),
        ("hf:squad@1.0-x:train[:1000]", ("squad", "1.0-x", "train[:1000]")),
        ("hf:a/b:train[10%:20%]", ("a/b", None, "train[10%:20%]")),
        ("hf:a/b:train+test", ("a/b", None, "train+test")),
        ("hf:/data/my@home/set@big:train", ("/data/my@home/set", "big", "train")),
        ("hf:/data/my@home/set:train", ("/data/my@home/set", None, "train")),
        ("hf:openai/gsm8k", None),
        ("hf:openai/gsm8k@main", None),
        ("hf::train", None),
        ("hf:openai/gsm8k:", None),
    ],
)
def test_the_name_of_a_data_set_has_three_parts(text, parts):
    found = FORM.fullmatch(text)
    assert (found and (found["name"], found["config"], found["split"])) == parts
    if parts is None:
        assert "hf:NAME[@CONFIG]:SPLIT, such as hf:openai/gsm8k@main:train" in refusal(text)


def test_names_of_files_and_folders_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    assert absolute_data("set/a.csv") == f"{tmp_path}/set/a.csv"
    assert absolute_data("hf:set@big:train[:5]") == f"hf:{tmp_path}/set@big:train[:5]"
    assert absolute_data("hf:openai/gsm8k@main:train") == "hf:openai/gsm8k@main:train"
    assert absolute_data("hf:set") == "hf:set"


@pytest.mark.parametrize("name", ["data.parquet", "data", "hf:openai/gsm8k@main:train"])
def test_without_the_extra_one_line_names_it(tmp_path, name):
    """In a process that finds neither package, whether they are installed or not."""
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    (tmp_path / "data").write_bytes(b"PAR1")
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['pyarrow'] = None\n"
        "from es_ray.tasks import TASKS\n"
        "from es_ray.tasks.data import examples_of\n"
        f"examples_of({name!r}, TASKS['conciseness']())"
    )
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True
    )
    last = ended.stderr.decode().splitlines()[-1]
    assert last.startswith(f"es_ray.errors.UserError: {name}: needs ")
    assert last.endswith("pip install 'es-ray[data]'")


@needs_datasets
@pytest.mark.parametrize("name", ["data.parquet", "data"])
def test_parquet_is_read(tmp_path, name):
    file = parquet(tmp_path / name, ROWS)
    examples = examples_of(file, Anything())
    assert list(examples) == EXPECTED
    assert examples[1].where == f"{file}, row 2"
    assert examples.fingerprint == fingerprint(EXPECTED)


@needs_datasets
def test_chats_and_nulls_of_parquet_are_read(tmp_path):
    """A table gives each turn every key that any has."""
    turns = [USER | {"name": None}, SYSTEM | {"name": "s"}]
    file = parquet(
        tmp_path / "data.parquet",
        [{"messages": turns[::-1], "target": None}, {"messages": turns[:1], "target": "x"}],
    )
    assert list(examples_of(file, Anything())) == [
        Example("Why?", messages=(SYSTEM | {"name": "s"}, USER)),
        Example("Why?", "x"),
    ]


@needs_datasets
def test_values_of_tables_that_json_has_no_form_for_are_metadata_but_no_targets(tmp_path):
    odd = {"day": date(2024, 1, 2), "price": Decimal("1.50"), "image": {"bytes": b"\x89PNG", "path": None}}
    file = parquet(tmp_path / "data.parquet", [{"prompt": "p"} | odd])
    examples = examples_of(file, Anything())
    assert examples[0].metadata == odd
    other = parquet(tmp_path / "other.parquet", [{"prompt": "p"} | odd | {"price": Decimal("1.51")}])
    assert examples.fingerprint != examples_of(other, Anything()).fingerprint
    message = refusal(parquet(tmp_path / "target.parquet", [{"prompt": "p", "target": date(2024, 1, 2)}]))
    assert "row 1: 'target' must be a text, a finite number" in message and "2024-01-02" in message
    assert "row 2: 'target' must be" in refusal(
        parquet(
            tmp_path / "nan.parquet",
            [{"prompt": "p", "target": 1.0}, {"prompt": "p", "target": float("nan")}],
        )
    )


@needs_datasets
def test_bad_parquet_is_named(tmp_path):
    file = parquet(tmp_path / "data.parquet", ROWS)
    file.write_bytes(file.read_bytes()[:-30])
    assert "cannot be read as Parquet" in refusal(file)
    file.write_bytes(b"")
    assert "cannot be read as Parquet" in refusal(file)
    assert "row 1: 'prompt' is missing; the fields there are 'question'" in refusal(
        parquet(tmp_path / "other.parquet", [{"question": "Why?"}])
    )
    assert "no examples" in refusal(parquet(tmp_path / "none.parquet", ROWS[:0]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set in a folder: two splits, in a cache of the test's own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "set"
    made.mkdir()
    (made / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (made / "test.jsonl").write_text(json.dumps(ROWS[0]))
    return made


@needs_datasets
def test_a_data_set_is_read_by_split_and_part(folder):
    assert list(examples_of(f"hf:{folder}:train", Anything())) == EXPECTED
    assert list(examples_of(f"hf:{folder}:test", Anything())) == EXPECTED[:1]
    part = examples_of(f"hf:{folder}@default:train[1:3]", Anything())
    assert list(part) == EXPECTED[1:3]
    assert part[0].where == f"hf:{folder}@default:train[1:3], row 1"


@needs_datasets
@pytest.mark.parametrize(
    ("rest", "about"), [(":validation", "validation"), ("@other:train", "other"), ("-missing:train", "")]
)
def test_what_a_data_set_does_not_have_is_one_line(folder, rest, about):
    message = refusal(f"hf:{folder}{rest}")
    assert "cannot be loaded" in message and about in message


@needs_datasets
def test_without_the_network_a_name_on_the_hub_is_one_line(tmp_path):
    code = (
        "from es_ray.tasks import TASKS\n"
        "from es_ray.tasks.data import examples_of\n"
        "examples_of('hf:openai/gsm8k@main:train', TASKS['conciseness']())"
    )
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, timeout=120
    )
    last = ended.stderr.decode().splitlines()[-1]
    assert last.startswith("es_ray.errors.UserError: hf:openai/gsm8k@main:train: cannot be loaded")
    assert "not in the local cache, and it cannot be downloaded" in last
