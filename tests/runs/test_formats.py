"""Runs of other versions: 0.1.0's resume to the bytes that it would have written, newer ones are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from es_ray.config import load
from es_ray.config.format import FORMAT
from es_ray.experiment import fingerprint
from es_ray.tasks.base import Example
from tests.short_runs import VARYING, json_lines
from tests.small_models import edit_json

WRITTEN = Path(__file__).parents[1] / "data" / "run_0_1_0"
LATER = (2, 3)


def theta(file: Path) -> np.ndarray:
    return load_file(file)["theta"]


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of 0.1.0's run, after two generations."""
    return Path(shutil.copytree(WRITTEN / "run", tmp_path / "old"))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """0.1.0's run, taken to four generations by this version."""
    from tests.short_runs import in_process

    run = shutil.copytree(WRITTEN / "run", tmp_path_factory.mktemp("resumed") / "run")
    in_process("run", "--resume", "--output", run, "--generations", 4)
    return run


def without(records: list[dict], *keys: str) -> list[dict]:
    return [{key: value for key, value in record.items() if key not in keys} for record in records]


def same_arithmetic(run: Path, tmp_path: Path, cli) -> bool:
    """Whether this machine reproduces 0.1.0's state of generation 1 to the byte: other hardware may not."""
    bare = shutil.copytree(run, tmp_path / "bare")
    for generation in range(2):
        (bare / f"generations/{generation:04d}/state.safetensors").unlink()
    ended = cli("member", bare, "--generation", 1, "--centre", "--output", tmp_path / "adapter")
    assert ended.code == 0, ended.err
    made = load_file(tmp_path / "adapter/adapter_model.safetensors")
    stored = theta(WRITTEN / "run/generations/0001/state.safetensors")
    return np.sort(np.concatenate([t.ravel() for t in made.values()])).tobytes() == np.sort(stored).tobytes()


def test_a_run_of_0_1_0_resumes_to_the_bytes_that_it_would_have_written(resumed, tmp_path, cli):
    exact = same_arithmetic(WRITTEN / "run", tmp_path, cli)
    for generation in LATER:
        folder, wanted = resumed / f"generations/{generation:04d}", WRITTEN / f"later/{generation:04d}"
        found = theta(folder / "state.safetensors")
        reference = theta(wanted / "state.safetensors")
        assert np.allclose(found, reference, rtol=0, atol=1e-6)
        if exact:
            assert (folder / "state.safetensors").read_bytes() == (wanted / "state.safetensors").read_bytes()
        lines = [(f / "population.jsonl").read_text().splitlines() for f in (folder, wanted)]
        for line, reference_line in zip(*lines, strict=True):
            ours, theirs = (json.loads(text) for text in (line, reference_line))
            assert line.replace(ours["worker"], "") == reference_line.replace(theirs["worker"], "")
    ours, theirs = json_lines(resumed / "metrics.jsonl"), json_lines(WRITTEN / "later/metrics.jsonl")
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    if exact:
        assert without(ours, *VARYING) == without(theirs, *VARYING)
    results = [json.loads((f / "test_results.json").read_text()) for f in (resumed, WRITTEN / "later")]
    assert results[0] == results[1]


def test_it_says_its_format_from_then_on(resumed):
    assert yaml.safe_load((resumed / "config.yaml").read_text())["format"] == FORMAT
    for generation, number in {0: 2, 1: 2, 2: FORMAT, 3: FORMAT}.items():
        state = json.loads((resumed / f"generations/{generation:04d}/state.json").read_text())
        assert state["format"] == number


def test_a_run_of_0_1_0_is_evaluated_and_plotted_and_gives_members(old, tmp_path, cli):
    evaluated = cli("evaluate", old, "--json")
    assert evaluated.code == 0, evaluated.err
    recorded = json.loads((old / "test_results.json").read_text())
    assert {name: json.loads(evaluated.out)[name] for name in recorded} == recorded
    plotted = cli("plot", old)
    assert plotted.code == 0, plotted.err
    assert (old / "plots/latest.png").stat().st_size > 10_000
    member = cli("member", old, "--generation", 1, "--index", 3, "--output", tmp_path / "member")
    assert member.code == 0, member.err


def test_a_run_of_0_1_0_is_reported_and_exported(old, tmp_path, cli):
    reported = cli("report", old)
    assert reported.code == 0, reported.err
    assert "<html" in (old / "report.html").read_text()
    exported = cli("export", old, "--output", tmp_path / "adapter")
    assert exported.code == 0, exported.err
    stored = theta(WRITTEN / "run/generations/0001/state.safetensors")
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors").values()
    assert np.array_equal(np.sort(np.concatenate([t.ravel() for t in tensors])), np.sort(stored))


def test_examples_that_0_1_0_did_not_have_are_noticed(old, tmp_path, cli):
    other = tmp_path / "train.jsonl"
    other.write_text('{"prompt": "Who?", "target": "I"}\n')
    config = yaml.safe_load((old / "config.yaml").read_text())
    config["task"]["train"] = str(other)
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    ended = cli("run", "--resume", "--output", old, "--generations", 3)
    assert ended.code == 2
    assert f"task.train: {other} (1 examples) is not what" in ended.err


def files(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


@pytest.mark.parametrize("number", [FORMAT + 1, 99])
@pytest.mark.parametrize("command", [("run", "--resume", "--output"), ("evaluate",), ("plot",)])
def test_a_run_directory_of_a_newer_version_is_refused_by_its_number(copied, cli, command, number):
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(f"format: {FORMAT}\n", f"format: {number}\n"))
    before = files(copied)
    ended = cli(*command, copied)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert f"format {number} is from a newer es-ray" in ended.err and "config.yaml" in ended.err
    assert files(copied) == before


@pytest.mark.parametrize("number", ["1", "true", "'3'", "null"])
def test_a_format_that_was_never_written_is_refused(copied, cli, number):
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(f"format: {FORMAT}\n", f"format: {number}\n"))
    ended = cli("evaluate", copied)
    assert ended.code == 2
    assert "was never written by es-ray" in ended.err


def test_a_state_of_a_newer_version_is_refused_by_its_number(copied, cli):
    """Its checksum is right: a newer version wrote it so."""
    import hashlib

    folder = copied / "generations/0003"
    before = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    edit_json(folder / "state.json", format=FORMAT + 1)
    after = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "DONE").write_text((folder / "DONE").read_text().replace(before, after))
    ended = cli("evaluate", copied)
    assert ended.code == 1
    assert f"format {FORMAT + 1} is from a newer es-ray" in ended.err and "state.json" in ended.err


def test_a_field_that_is_empty_changes_no_fingerprint():
    """So a later version may add fields to Example."""
    plain = [Example("Why?", "So.")]
    assert fingerprint(plain) == fingerprint([Example("Why?", "So.", {})])
    assert fingerprint(plain) != fingerprint([Example("Why?", "So.", {"level": 1})])
    assert fingerprint(plain) != fingerprint([Example("Why? ", "So.")])
    assert fingerprint([Example("a", "b", {"x": 1, "y": 2})]) == fingerprint(
        [Example("a", "b", {"y": 2, "x": 1})]
    )


def test_a_run_that_0_1_0_began_and_never_recorded_keeps_its_form(old, tmp_path, cli):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(old / "config.yaml", bare / "config.yaml")
    ended = cli("run", "--resume", "--output", bare)
    assert ended.code == 0, ended.err
    ours, theirs = json_lines(bare / "metrics.jsonl"), json_lines(WRITTEN / "later/metrics.jsonl")
    assert [list(line) for line in ours] == [list(line) for line in theirs[:2]]


SETTINGS_OF_0_1_0 = [
    {"noise": {"kind": "constant", "fraction": 0.1, "multiplier": 22.0, "std": 0.3}},
    {"noise": {"kind": "per-module", "fraction": 0.1, "multiplier": 30.0, "std": 0.001}},
    {"noise": {"kind": "per-layer", "fraction": 0.1, "multiplier": 30.0, "std": 0.5}, "antithetic": True},
]


@pytest.mark.parametrize("evolution", SETTINGS_OF_0_1_0)
@pytest.mark.parametrize("init", [{"mode": "centre"}, {"mode": "population"}])
def test_what_0_1_0_wrote_down_means_what_it_meant(old, cli, evolution, init):
    """All four keys of noise are in its files, of which some had no effect."""
    tree = yaml.safe_load((old / "config.yaml").read_text())
    tree["evolution"] |= evolution
    tree["init"] |= init
    (old / "config.yaml").write_text(yaml.safe_dump(tree))
    config = load(file=old / "config.yaml")
    kind = evolution["noise"]["kind"]
    assert config.evolution.noise.kind == kind
    for key, value in evolution["noise"].items():
        effective = key == "kind" or (key == "std") == (kind == "constant")
        assert getattr(config.evolution.noise, key) == (value if effective else None)
    assert config.init.mode == init["mode"]
    assert config.evolution.optimizer == "sgd"
