"""How the process of a command ends: at once, but with all that was to happen at its end."""

import subprocess
import sys
from pathlib import Path

import pytest

from es_ray import __version__

SCRIPT = """\
import atexit, sys, tempfile, threading, time
from es_ray.cli.main import script

folder = tempfile.TemporaryDirectory()
print(folder.name)
atexit.register(lambda: print("exit function"))
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
sys.argv = ["es-ray", *{arguments!r}]
script()
print("never")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["--version"], 0, [f"es-ray {__version__}"]), (["run", "--set", "foo=1"], 2, [])],
)
def test_threads_exit_functions_and_output_are_not_lost(arguments, code, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    folder, *lines = done.stdout.splitlines()
    assert (done.returncode, lines) == (code, [*said, "thread", "exit function"])
    assert bool(done.stderr) == bool(code)
    assert not Path(folder).exists(), "a temporary folder is removed"
