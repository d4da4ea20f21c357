"""An adapter in plain transformers, as docs/how-to/export.md says, where es_ray cannot be imported."""

import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT, blocks
from tests.short_runs import TOKENS

SCRIPT = ROOT / "examples" / "load_adapter.py"


def load(tmp_path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script without es-ray."""
    (tmp_path / "without").mkdir(exist_ok=True)
    (tmp_path / "without" / "es_ray.py").write_text("raise ImportError('es_ray is not needed')\n")
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], cwd=tmp_path, text=True, capture_output=True,
        timeout=300, env=os.environ | {"PYTHONPATH": str(tmp_path / "without")},
    )  # fmt: skip


def test_the_answers_are_those_that_the_run_recorded(finished, tmp_path, monkeypatch, cli):
    shutil.copytree(finished.path, tmp_path / "RUN_DIR")
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks(ROOT / "docs/how-to/export.md") if block.runner]
    export, script = (shlex.split(line, comments=True) for line in block.text.splitlines())
    ended = cli(*export[1:], "--best")  # a member whose answers differ from those of the base model
    assert ended.code == 0, ended.err
    assert script[:2] == ["python", "examples/load_adapter.py"]
    results = json.loads((finished.path / "test_results.json").read_text())
    answers = {
        name: {example["prompt"]: example["completion"] for example in results[name]["examples"]}
        for name in ("base", "best")
    }
    question = script[3]
    assert answers["base"][question] != answers["best"][question]
    done = load(tmp_path, *script[2:], "--max-new-tokens", TOKENS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"base model:   {answers['base'][question]}",
        f"with adapter: {answers['best'][question]}",
    ]


def test_another_base_model_is_the_one_that_is_read(finished, tmp_path, monkeypatch):
    adapter = finished.path / "generations/0003/adapter"
    nowhere = tmp_path / "nowhere"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(adapter), "?", "--base", str(nowhere)])
    with pytest.raises((OSError, ValueError), match=str(nowhere)):
        runpy.run_path(str(SCRIPT), run_name="__main__")
