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


def ended_after(lines: str, tmp_path: Path, **given) -> subprocess.CompletedProcess:
    """A process that ran these lines and then `es-ray --version`."""
    program = (
        f"import sys\nfrom es_ray.cli import main\n{lines}\nsys.argv = ['es-ray', '--version']\nmain.script()"
    )
    return subprocess.run(
        [sys.executable, "-c", program], text=True, timeout=120, cwd=tmp_path, check=False, **given
    )


def test_what_files_left_open_still_hold_is_written(tmp_path):
    lines = "text, raw = open('text', 'w'), open('raw', 'wb')\ntext.write('answer')\nraw.write(b'bytes')\n"
    lines += "closed = open('closed', 'w')\nclosed.close()"
    assert ended_after(lines, tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    assert (tmp_path / "text").read_text() == "answer"
    assert (tmp_path / "raw").read_bytes() == b"bytes"


def test_a_pipe_that_nobody_reads_does_not_hold_up_the_end(tmp_path):
    lines = (
        "import os\nends = os.pipe()\npipe = os.fdopen(ends[1], 'wb', 1 << 20)\npipe.write(bytes(1 << 19))"
    )
    assert ended_after(lines, tmp_path, stdout=subprocess.DEVNULL).returncode == 0


def test_a_process_without_output_ends_as_any_other(tmp_path):
    lines = "sys.stdout = sys.stderr = None"  # as Python has them where the streams are closed
    done = ended_after(lines, tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_message_that_a_task_exits_with_is_seen(tmp_path):
    lines = "def ending(): sys.exit('no data today')\nmain.main = ending"
    done = ended_after(lines, tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "no data today\n")


def test_the_package_run_as_a_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "es_ray", "run", "--set", "foo=1"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("es-ray: foo: ") and done.stderr.count("\n") == 1
