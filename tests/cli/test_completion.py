"""Completion in a real bash: installed as users install it, then asked as Tab asks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A home folder with es-ray on the path, in which `es-ray --install-completion` has run."""
    folder = tmp_path_factory.mktemp("home")
    command = folder / "bin" / "es-ray"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nfrom es_ray.cli.main import main\n\nmain()\n")
    command.chmod(0o755)
    said = bash(folder, "es-ray --install-completion; echo ended with $?")
    assert "bash completion installed" in said and "ended with 0" in said
    return folder


def bash(home: Path, script: str) -> str:
    """What an interactive bash prints: it reads .bashrc, where completion is installed."""
    environment = {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
    }
    done = subprocess.run(
        [str(BASH), "-i"],
        input=script,
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout


def completions(home: Path, *words: str) -> list[str]:
    """What Tab offers for the last word of a line."""
    line = " ".join(f"'{word}'" for word in words)
    script = (
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        "function_name=$(complete -p es-ray | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        "$function_name es-ray\n"
        'for reply in "${COMPREPLY[@]}"; do echo "offered:$reply"; done\n'
    )
    return [text.removeprefix("offered:") for text in bash(home, script).splitlines() if "offered:" in text]


def test_commands_are_completed(home):
    assert completions(home, "es-ray", "c") == ["calibrate", "check-task", "compare"]


def test_options_are_completed(home):
    offered = completions(home, "es-ray", "run", "--ge")
    assert offered == ["--generations"]


def test_presets_are_completed(home):
    assert completions(home, "es-ray", "run", "--preset", "tiny") == ["tiny-chat", "tiny-chat-0.1.0"]
