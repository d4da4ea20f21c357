"""A user's file and what lies beside it."""

import sys
from pathlib import Path

import pytest
import yaml

from es_ray.imports import forget_changed, resolve
from es_ray.imports.user_files import beside

MINE = """\
import helpers
def both():
    from parts import inner
    return helpers.WORD + inner.WORD
"""


def project(folder: Path, word: str) -> str:
    """A file that imports a module and a package beside it, one of them inside a function."""
    texts = {
        "mine.py": MINE,
        "helpers.py": f"import third\nWORD = {word!r} + third.WORD\n",
        "third.py": "WORD = '3'\n",
        "parts/__init__.py": "",
        "parts/inner.py": f"WORD = {word.upper()!r}\n",
        "parts/words.txt": "data of a package",
        "parts/.git/config": "",
        "parts/__pycache__/inner.cpython-311.pyc": "",
        "other.py": "1 / 0\n",
        "data.jsonl": "{}\n",
        "runs/old.py": "",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return f"{folder}/mine.py:both"


def test_what_lies_beside_a_file_can_be_imported_also_later(tmp_path):
    name = project(tmp_path, "a")
    before = set(tmp_path.rglob("*"))
    both = resolve("task.name", name, {})
    assert set(tmp_path.rglob("*")) == before, "importing it writes nothing"
    assert both() == "a3A"


def test_its_folder_hides_nothing_that_is_installed(tmp_path):
    (tmp_path / "yaml.py").write_text("1 / 0\n")
    (tmp_path / "mine.py").write_text("VALUE = 1\n")
    assert resolve("task.name", f"{tmp_path}/mine.py:VALUE", {}) == 1
    installed = Path(yaml.__file__).parents[1]
    assert sys.path.index(str(tmp_path)) > sys.path.index(str(installed))


def test_two_folders_have_helpers_of_their_own(tmp_path):
    names = [project(tmp_path / word, word) for word in "ab"]
    assert [resolve("task.name", name, {})() for name in names] == ["a3A", "b3B"]


@pytest.mark.parametrize("changed", ["mine.py", "helpers.py", "parts/inner.py", "third.py"])
def test_a_changed_file_is_imported_again_at_the_next_run_and_not_before(tmp_path, changed):
    name = project(tmp_path, "a")
    first = resolve("task.name", name, {})
    assert first() == "a3A"
    forget_changed()
    assert resolve("task.name", name, {}) is first
    file = tmp_path / changed
    file.write_text(file.read_text().replace("WORD = '", "WORD = '-").replace("return ", "return '-' + "))
    assert resolve("task.name", name, {}) is first
    forget_changed()
    again = resolve("task.name", name, {})
    assert again is not first
    assert again().replace("-", "") == "a3A"
    assert again() != "a3A"


def test_what_a_file_imports_from_its_folder_belongs_to_it_and_nothing_else(tmp_path):
    project(tmp_path, "a")
    found = {str(path.relative_to(tmp_path)) for path in beside(tmp_path / "mine.py")}
    assert found == {
        "mine.py", "helpers.py", "third.py", "parts/__init__.py", "parts/inner.py", "parts/words.txt",
    }  # fmt: skip


def test_a_file_that_failed_can_be_imported_once_it_is_mended(tmp_path):
    (tmp_path / "mine.py").write_text("def f(:\n")
    name = f"{tmp_path}/mine.py:VALUE"
    for _ in range(2):
        with pytest.raises(Exception, match=r"SyntaxError.*mine.py:1"):
            resolve("task.name", name, {})
    (tmp_path / "mine.py").write_text("VALUE = 1\n")
    assert resolve("task.name", name, {}) == 1
