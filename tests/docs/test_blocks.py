"""Every block of shell and Python in README and docs/ works as it stands, or says why it is not run.

A block may have a line before it: `<!-- not run: needs a GPU -->`, `<!-- run by: tests/test_readme.py -->`.
All others are run here, in a folder with what pages name: a run `RUN_DIR`, `my_reward.py`, `train.jsonl` and
`test.jsonl`. Of `es-ray run` all but the run itself: with --dry-run.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, code

REASONS = re.compile(r"(needs an? |takes minutes|installs packages)")


def unmarked(*languages: str) -> list:
    """The blocks to run here."""
    return [pytest.param(b, id=b.name) for b in code() if b.language in languages and not b.note]


def commands(block: Block) -> list[list[str]]:
    """The words of each command, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(finished, tmp_path, monkeypatch) -> Path:
    """What pages name, in the folder where the commands run."""
    python, data = (
        next(b for b in blocks(ROOT / "README.md") if b.language == name) for name in ("python", "json")
    )
    (tmp_path / "my_reward.py").write_text(python.text)
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(data.text)
    shutil.copytree(finished.path, tmp_path / "RUN_DIR")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_blocks_of_each_kind():
    kinds = [(b.reason is not None, b.runner is not None) for b in code()]
    assert {(True, False), (False, True), (False, False)} == set(kinds)
    assert len(kinds) > 20


@pytest.mark.parametrize("block", [pytest.param(b, id=b.name) for b in code() if b.note])
def test_a_mark_says_why_a_block_is_not_run_or_where_it_is(block):
    if block.runner is not None:
        assert block.page.name in (ROOT / block.runner).read_text(encoding="utf-8")
    else:
        assert block.reason is not None, f"{block.note}: must be `not run: REASON` or `run by: TEST`"
        assert REASONS.search(block.reason), block.reason


@pytest.mark.parametrize("block", unmarked("sh", "bash"))
def test_commands_work(block, folder, cli):
    for words in commands(block):
        assert words[0] == "es-ray", f"{words[0]}: mark the block, or say which test runs it"
        ended = cli(*words[1:], *(["--dry-run"] if words[1] == "run" else []))
        fine = (0, 1) if words[1] == "doctor" else (0,)  # 1: what it finds is wrong with this machine
        assert ended.code in fine and ended.out, (words, ended.err)


@pytest.mark.parametrize("block", unmarked("python", "py"))
def test_python_works(block, folder):
    exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})
