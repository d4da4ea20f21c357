"""A user's own code by import path."""

import subprocess
import sys

import pytest

from es_ray.errors import UserError
from es_ray.imports import absolute, resolve

KNOWN = {"one": 1, "two": 2}


def test_a_known_name_is_its_entry():
    assert resolve("task.name", "two", KNOWN) == 2


def test_a_module_and_a_file_are_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_by_name.py").write_text("VALUE = 3\n")
    (tmp_path / "mine.py").write_text("class Thing:\n    pass\nVALUE = object()\n")
    assert resolve("task.name", "mine_by_name:VALUE", KNOWN) == 3
    file = f"{tmp_path}/mine.py"
    thing = resolve("task.name", f"{file}:Thing", KNOWN)
    assert thing.__module__ in sys.modules
    assert resolve("task.name", f"{file}:VALUE", KNOWN) is resolve("task.name", f"{file}:VALUE", KNOWN)


def test_a_files_path_is_made_absolute_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("mine.py:Thing") == f"{tmp_path}/mine.py:Thing"
    assert absolute("package.module:Thing") == "package.module:Thing"
    assert absolute("conciseness") == "conciseness"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three", ["'three' is not allowed", "one, two", "file.py:name"]),
        ("no_such_module_at_all:x", ["no_such_module_at_all", "cannot be imported"]),
        ("nowhere/file.py:x", ["nowhere/file.py", "no such file"]),
        ("{there}:missing", ["has no 'missing'", "it has VALUE"]),
        ("{broken}:x", ["cannot be imported", "ZeroDivisionError"]),
        ("{torn}:x", ["cannot be imported", "SyntaxError"]),
        ("{quits}:x", ["cannot be imported", "SystemExit"]),
        ("{lazy}:x", ["cannot be had", "LookupError: no x"]),
    ],
)
def test_what_is_not_there_is_named_in_one_line(tmp_path, name, words):
    contents = {
        "there": "VALUE = 1\n",
        "lazy": "def __getattr__(name):\n    raise LookupError(f'no {name}')\n",
        "broken": "1 / 0\n",
        "torn": "def f(:\n",
        "quits": "import sys\nsys.exit(0)\n",
    }
    for stem, text in contents.items():
        (tmp_path / f"{stem}.py").write_text(text)
        name = name.replace(f"{{{stem}}}", f"{tmp_path}/{stem}.py")
    with pytest.raises(UserError) as error:
        resolve("task.name", name, KNOWN)
    assert str(error.value).startswith("task.name: ")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import es_ray", ["numpy", "pydantic", "rich"]),
        ("import es_ray; es_ray.TerminalConsole; es_ray.Callback", []),
        ("import es_ray; es_ray.load(preset='tiny-chat')", []),
    ],
)
def test_what_a_script_begins_with_imports_nothing_heavy(code, unwanted):
    heavy = ["torch", "ray", "transformers", "peft", "matplotlib", *unwanted]
    check = f"{code}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
