"""`es-ray compare`: what it prints, and bad input, which writes nothing."""

import json
import shutil
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def seeds(finished, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Two runs that differ in the seed, and an empty working directory."""
    other = Path(shutil.copytree(finished.path, tmp_path / "other"))
    tree = yaml.safe_load((other / "config.yaml").read_text(encoding="utf-8"))
    tree["evolution"]["seed"] = 5
    (other / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return finished.path, other


def test_a_table_and_three_files(seeds, cli):
    ended = cli("compare", *seeds)
    assert ended.code == 0, ended.err
    assert "12345678901, 5" in ended.out
    assert "reward, centre" in ended.out
    assert sorted(path.name for path in Path("compare").iterdir()) == [
        "compare.json",
        "compare.md",
        "compare.png",
    ]
    as_json = cli("compare", *seeds, "--json", "--output", "other")
    assert json.loads(as_json.out) == json.loads(Path("compare/compare.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("Missing argument", "RUN_DIR")),
        (("{run}",), ("at least two runs",)),
        (("{run}", "{run}"), ("is named twice",)),
        (("{run}", "nowhere"), ("nowhere", "not a run directory")),
        (("{run}", "{other}", "--output", "{run}/config.yaml"), ("--output", "is not a folder")),
        (("{run}", "{other}", "--output", "{run}/config.yaml/x"), ("--output", "is not a folder")),
        (("{run}", "{other}", "--output", "/proc/es-ray"), ("--output /proc/es-ray", "cannot be written")),
        (("{run}", "{unfinished}"), ("has no finished generation",)),
    ],
)
def test_bad_input_is_refused_in_one_line(seeds, cli, tmp_path, arguments, words):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(seeds[0] / "config.yaml", unfinished)
    names = {"run": seeds[0], "other": seeds[1], "unfinished": unfinished}
    ended = cli("compare", *(argument.format(**names) for argument in arguments))
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    for word in words:
        assert word in ended.err
    assert list(Path().iterdir()) == []


def test_torn_files_of_a_run_are_named(seeds, cli):
    (seeds[1] / "test_results.json").write_text('{"base": {')
    ended = cli("compare", *seeds)
    assert ended.code == 1
    assert "test_results.json: torn or edited" in ended.err
    assert list(Path().iterdir()) == []
