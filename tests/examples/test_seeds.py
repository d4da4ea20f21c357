"""A sweep over seeds, as docs/how-to/compare.md starts it, and started again after an interruption."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks
from tests.short_runs import SETTINGS, evolved, json_lines

SCRIPT = ROOT / "examples" / "seeds.sh"
SEED = SETTINGS[SETTINGS.index("--seed") + 1]


def page_command() -> tuple[str, list[str]]:
    """The variable and the words with which the page starts the script."""
    (block,) = [block for block in blocks(ROOT / "docs/how-to/compare.md") if block.runner]
    variable, *words = shlex.split(block.text, comments=True)
    return variable.partition("=")[0], words


def sweep(folder: Path, seeds: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The page's command with these seeds and options, where `es-ray` is the command of this Python."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "es-ray").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m es_ray.cli.main "$@"\n')
    (programs / "es-ray").chmod(0o755)
    (folder / "examples").unlink(missing_ok=True)
    (folder / "examples").symlink_to(SCRIPT.parent)
    variable, words = page_command()
    paths = os.pathsep.join([str(programs), os.environ["PATH"]])
    return subprocess.run(
        [*words, *options], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PATH": paths, variable: seeds},
    )  # fmt: skip


def test_a_stopped_sweep_goes_on_and_ends_with_the_comparison(finished, tmp_path):
    stopped = tmp_path / "sweep" / f"seed-{SEED}"
    shutil.copytree(finished.path, stopped)
    (stopped / "test_results.json").unlink()
    shutil.rmtree(stopped / "generations/0003")
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:3]))
    at = SETTINGS.index("--seed")
    options = (*SETTINGS[:at], *SETTINGS[at + 2 :], "--local", "--set", "output.plots_every=null")
    done = sweep(tmp_path, f"{SEED} 7", *options)
    assert done.returncode == 0, done.stderr
    assert evolved(stopped) == evolved(finished.path)
    other = tmp_path / "sweep" / "seed-7"
    assert len(json_lines(other / "metrics.jsonl")) == 4
    compared = json.loads((tmp_path / "sweep/compare/compare.json").read_text())
    (group,) = compared["groups"]
    assert sorted((run["seed"], run["finished"]) for run in group["runs"]) == [(7, True), (int(SEED), True)]

    before = evolved(other)
    again = sweep(tmp_path, f"{SEED} 7")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("has ended") == 2
    assert evolved(other) == before


def test_without_a_folder_it_says_how_it_is_called(tmp_path):
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "usage: bash examples/seeds.sh FOLDER" in done.stderr
