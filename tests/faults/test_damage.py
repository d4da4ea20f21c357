"""Generations that were torn or edited: found by their checksums, named, and made again."""

import json
import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import GENERATIONS
from tests.short_runs import evolved

LAST = f"generations/{GENERATIONS - 1:04d}"


def flip(file: Path, at: int = -1) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def cut(file: Path, left: int = -40) -> None:
    file.write_bytes(file.read_bytes()[:left])


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2) + "\n")


def edit_line(file: Path, number: int, **values: object) -> None:
    lines = file.read_text().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | values)
    file.write_text("".join(f"{line}\n" for line in lines))


def drop_line(file: Path, number: int) -> None:
    lines = file.read_text().splitlines()
    del lines[number]
    file.write_text("".join(f"{line}\n" for line in lines))


DAMAGE = {
    "a bit of the state": (f"{LAST}/state.safetensors", flip),
    "a state cut short": (f"{LAST}/state.safetensors", cut),
    "an empty state": (f"{LAST}/state.safetensors", lambda file: file.write_bytes(b"")),
    "another mean_abs": (f"{LAST}/state.json", lambda file: edit(file, mean_abs=[1.0] * 14)),
    "another generation": (f"{LAST}/state.json", lambda file: edit(file, generation=7)),
    "a description cut short": (f"{LAST}/state.json", cut),
    "no description": (f"{LAST}/state.json", Path.unlink),
    "another advantage": (f"{LAST}/population.jsonl", lambda file: edit_line(file, 1, advantage=3.0)),
    "members cut short": (f"{LAST}/population.jsonl", cut),
    "no members": (f"{LAST}/population.jsonl", Path.unlink),
    "a bit of an adapter": (f"{LAST}/adapter/adapter_model.safetensors", flip),
    "a torn last line": ("metrics.jsonl", cut),
    "another last line": ("metrics.jsonl", lambda file: edit_line(file, -1, reward_best=1e9)),
    "no last line": ("metrics.jsonl", lambda file: drop_line(file, -1)),
    "an empty mark": (f"{LAST}/DONE", lambda file: file.write_text("")),
    "a mark cut short": (f"{LAST}/DONE", cut),
    "a mark that is no text": (f"{LAST}/DONE", lambda file: file.write_bytes(b"\xff\x00")),
}
FAST = (
    "a bit of the state", "another mean_abs", "another advantage", "no members", "a bit of an adapter",
    "a torn last line", "another last line", "a mark cut short",
)  # fmt: skip


@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=() if d in FAST else pytest.mark.faults) for d in DAMAGE]
)
def test_the_generation_before_a_damaged_one_is_used(drivers, reference, tmp_path, damage):
    run = reference.copy(tmp_path / "run")
    name, spoil = DAMAGE[damage]
    spoil(run / name)
    ended = drivers("run", "--resume", "--output", run)
    assert ended.code == 0, ended.err
    (warning,) = [line for line in ended.out.splitlines() if "warning" in line]
    assert str(run / name) in warning
    assert f"resuming after generation {GENERATIONS - 2}" in warning
    reference.assert_equal(run)


def test_two_damaged_generations_are_both_reported(drivers, reference, tmp_path):
    run = reference.copy(tmp_path / "run")
    files = [run / f"generations/{number:04d}/state.json" for number in range(1, GENERATIONS)]
    for file in files:
        edit(file, size=1)
    ended = drivers("run", "--resume", "--output", run)
    assert ended.code == 0, ended.err
    (warning,) = [line for line in ended.out.splitlines() if "warning" in line]
    assert all(str(file) in warning for file in files)
    assert "resuming after generation 0" in warning
    reference.assert_equal(run)


def test_with_no_generation_intact_nothing_is_touched(drivers, reference, tmp_path):
    run = reference.copy(tmp_path / "run")
    for number in range(GENERATIONS):
        flip(run / f"generations/{number:04d}/state.safetensors")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    ended = drivers("run", "--resume", "--output", run)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert str(run / LAST / "state.safetensors") in ended.err
    assert "nothing was removed" in ended.err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "spoil",
    [lambda file: edit_line(file, 0, reward_best=1e9), lambda file: drop_line(file, 0)],
    ids=["edited", "missing"],
)
def test_a_damaged_line_before_an_intact_generation_is_for_people_to_mend(
    drivers, reference, tmp_path, spoil
):
    """It is no reason to throw the generations after it away."""
    run = reference.copy(tmp_path / "run")
    spoil(run / "metrics.jsonl")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    ended = drivers("run", "--resume", "--output", run)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert f"{run / 'metrics.jsonl'}, line 1: missing, torn or edited" in ended.err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_what_pruning_may_drop_is_not_needed(drivers, reference, settings, tmp_path):
    """The last centre is replayed from the one before; adapters of finished generations stay as they are."""
    run, intact = reference.copy(tmp_path / "run"), reference.copy(tmp_path / "intact")
    (run / LAST / "state.safetensors").unlink()
    shutil.rmtree(run / LAST / "best")
    for folder in (run, intact):
        ended = drivers("run", "--resume", "--output", folder, "--generations", GENERATIONS + 1)
        assert ended.code == 0, ended.err
        assert "warning" not in ended.out
    left, expected = evolved(run), evolved(intact)
    assert left == {name: expected[name] for name in left}
    assert f"generations/{GENERATIONS:04d}/adapter/adapter_model.safetensors" in left


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_pruned_run_resumes_before_its_damage_too(drivers, pruned, tmp_path, damaged):
    """`output.keep=1` keeps a second state for this; before that, updates are computed again."""
    run = pruned.copy(tmp_path / "run")
    for number in range(GENERATIONS - damaged, GENERATIONS):
        flip(run / f"generations/{number:04d}/state.safetensors")
    ended = drivers("run", "--resume", "--output", run)
    assert ended.code == 0, ended.err
    assert f"resuming after generation {GENERATIONS - damaged - 1}" in ended.out
    pruned_names = {name for name in pruned.evolved}
    left = evolved(run)
    assert pruned_names >= set(left)
    assert left == {name: pruned.evolved[name] for name in left}
    last = {name for name in pruned_names if name.startswith(f"{LAST}/")}
    assert last <= set(left)
