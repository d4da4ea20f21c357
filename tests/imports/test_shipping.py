"""A user's code, packed here and imported in a process that cannot see its files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from es_ray.errors import UserError
from es_ray.imports import shipping
from es_ray.imports.shipping import pack

FILE = """\
import helpers
from es_ray import Score
def reward(example, completion):
    from parts import inner
    return helpers.VALUE + inner.VALUE
def where():
    from parts import inner
    return [__file__, helpers.__file__, inner.__file__]
def fail():
    raise ValueError("no luck")
"""
THERE = """\
import json, pickle, sys
from es_ray.imports import resolve
from es_ray.imports.shipping import UnpackedCode
code = pickle.load(sys.stdin.buffer)
unpacked = UnpackedCode(code)
value = resolve("task.name", sys.argv[1], {})
try:
    out = value()
except ValueError as error:
    import traceback
    out = unpacked.here_to_there(traceback.format_exc())
print(json.dumps([str(unpacked.folder), out]), flush=True)
if sys.argv[2:]:
    import os
    os._exit(1)
"""


def project(folder: Path, value: int = 1) -> Path:
    texts = {
        "mine.py": FILE,
        "helpers.py": f"VALUE = {value}\n",
        "parts/__init__.py": "",
        "parts/inner.py": "VALUE = 10\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "mine.py"


def elsewhere(code: object, name: str, *more: str, **options) -> list:
    """What a name's value returns in another process that has the code, and where that unpacked it."""
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", THERE, name, *more], input=pickle.dumps(code), capture_output=True, **options
    )
    assert done.returncode == len(more), done.stderr.decode()
    return json.loads(done.stdout)


def test_a_file_is_imported_from_its_copy_with_what_it_imports(tmp_path):
    file = project(tmp_path / "mine")
    name = f"{file}:where"
    code = pack([("task.name", name)])
    file.parent.rename(tmp_path / "gone")
    folder, files = elsewhere(code, name)
    assert len(files) == 3
    assert all(path.startswith(folder) for path in files)
    assert not Path(folder).exists(), "it is removed with its process"


def test_messages_name_the_users_file(tmp_path):
    name = f"{project(tmp_path / 'mine')}:fail"
    _, trace = elsewhere(pack([("task.name", name)]), name)
    assert f'File "{tmp_path}/mine/mine.py", line 10, in fail' in trace


def test_a_package_on_the_path_is_shipped_and_an_installed_one_is_not(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "shipped_package"
    project(package / "deep")
    (package / "__init__.py").write_text("")
    (package / "deep" / "__init__.py").write_text("")
    (package / "words.txt").write_text("data")
    (package / "read.py").write_text(
        "from pathlib import Path\n"
        "def data():\n    return (Path(__file__).parent / 'words.txt').read_text()\n"
    )
    name = "shipped_package.read:data"
    code = pack([("task.name", name)])
    assert elsewhere(code, name, env={"PYTHONPATH": str(Path(__file__).parents[2])})[1] == "data"
    for installed in ("json:loads", "numpy.linalg:norm", "es_ray.tasks.conciseness:Conciseness"):
        assert pack([("task.name", installed)]).archive == b""


def test_the_same_code_gives_the_same_bytes_and_changed_code_others(tmp_path):
    name = f"{project(tmp_path)}:reward"
    first = pack([("task.name", name)])
    assert pack([("task.name", name)]) == first
    project(tmp_path, value=2)
    assert pack([("task.name", name)]).archive != first.archive


def test_too_much_code_is_refused_in_one_line(tmp_path, monkeypatch):
    file = project(tmp_path)
    (tmp_path / "parts" / "weights.bin").write_bytes(bytes(21_000_000))
    with pytest.raises(UserError, match=r"^task.name: .*mine.py:reward: .* 20 MB .*weights.bin"):
        pack([("task.name", f"{file}:reward")])
    (tmp_path / "parts" / "weights.bin").unlink()
    (tmp_path / "weights.bin").write_bytes(bytes(21_000_000))
    assert pack([("task.name", f"{file}:reward")]).archive, "data beside the file are not shipped"


def test_copies_of_killed_processes_are_removed_by_later_ones(tmp_path, monkeypatch):
    name = f"{project(tmp_path)}:reward".replace("reward", "where")
    code = pack([("task.name", name)])
    left = Path(elsewhere(code, name, "be killed")[0])
    assert left.exists()
    elsewhere(code, name)
    assert left.exists(), "it may be starting"
    monkeypatch.setattr(shipping, "_STARTING_SECONDS", -1.0)
    with (left / "lock").open() as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        shipping._remove_abandoned(left.parent)
        assert left.exists(), "it is in use"
    shipping._remove_abandoned(left.parent)
    assert not left.exists()


def test_the_name_of_an_entry_point_travels_with_its_code(tmp_path):
    import pickle

    file = project(tmp_path / "mine")
    code = pack([("task.name", f"{file}:reward")], {"mine": f"{file}:reward"})
    file.parent.rename(tmp_path / "gone")
    script = (
        "import pickle, sys\n"
        "from es_ray.imports.shipping import UnpackedCode\n"
        "from es_ray.tasks.loading import load_task\n"
        "unpacked = UnpackedCode(pickle.load(sys.stdin.buffer))\n"
        "print(load_task('mine', {}).score(None, ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(code), capture_output=True)
    assert done.stdout == b"11\n", done.stderr.decode()
