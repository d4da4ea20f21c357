"""Pruned runs: what `output.keep` leaves, and that everything else can still be rebuilt."""

import json
import shutil
from pathlib import Path

import pytest

from tests.short_runs import GENERATIONS, POPULATION, SETTINGS, evolved, in_process, json_lines


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> Path:
    """The finished run's settings again, with no more than the last generation kept."""
    path = tmp_path_factory.mktemp("pruned") / "run"
    in_process("run", "--local", *SETTINGS, "--set", "output.keep=1", "--output", path)
    return path


def best_generation(run: Path) -> int:
    lines = json_lines(run / "metrics.jsonl")
    return max(range(len(lines)), key=lambda g: (lines[g]["reward_best"], -g))


def test_the_last_and_the_best_generation_are_kept(pruned):
    best = best_generation(pruned)
    kept = {GENERATIONS - 1, best}
    assert len(kept) < GENERATIONS
    for generation in range(GENERATIONS):
        folder = pruned / f"generations/{generation:04d}"
        assert (folder / "DONE").is_file()
        assert (folder / "population.jsonl").is_file()
        for name in ("adapter", "best", "state.safetensors"):
            # the best member is made from the state before its generation; two states are kept to resume from
            states = {best - 1, GENERATIONS - 2}
            wanted = generation in kept or (name == "state.safetensors" and generation in states)
            assert (folder / name).exists() == wanted, f"{name} of generation {generation}"


def test_pruning_changes_nothing_of_what_is_kept(pruned, finished):
    left, complete = evolved(pruned), evolved(finished.path)
    assert set(left) < set(complete)
    assert left == {name: complete[name] for name in left}


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_members_and_centres_of_pruned_generations_have_the_same_bytes(
    pruned, finished, tmp_path, cli, generation
):
    for which in (("--index", 0), ("--index", POPULATION - 1), ("--centre",)):
        for run, name in ((pruned, "pruned"), (finished.path, "complete")):
            ended = cli("member", run, "--generation", generation, *which,
                        "--output", tmp_path / f"{name}{which[-1]}")  # fmt: skip
            assert ended.code == 0, ended.err
        for file in (tmp_path / f"complete{which[-1]}").iterdir():
            assert (tmp_path / f"pruned{which[-1]}" / file.name).read_bytes() == file.read_bytes()


def test_a_rebuilt_centre_has_the_bytes_of_the_adapter_before_pruning(pruned, finished, tmp_path, cli):
    for generation in range(GENERATIONS):
        output = tmp_path / str(generation)
        assert cli("member", pruned, "--generation", generation, "--centre", "--output", output).code == 0
        before = finished.path / f"generations/{generation:04d}/adapter/adapter_model.safetensors"
        assert (output / "adapter_model.safetensors").read_bytes() == before.read_bytes()


def test_a_pruned_run_is_evaluated_and_extended_like_a_complete_one(pruned, finished, tmp_path, cli):
    both = {}
    for name, run in (("pruned", pruned), ("complete", finished.path)):
        copy = shutil.copytree(run, tmp_path / name)
        longer = ("--resume", "--output", copy, "--generations", GENERATIONS + 1)
        assert cli("run", *longer).code == 0
        evaluated = cli("evaluate", copy, "--generation", 1, "--json")
        assert evaluated.code == 0, evaluated.err
        both[name] = (json_lines(copy / "metrics.jsonl")[-1]["centre_reward"], json.loads(evaluated.out))
        folder = copy / f"generations/{GENERATIONS:04d}/adapter/adapter_model.safetensors"
        both[name] += (folder.read_bytes(),)
    assert both["pruned"] == both["complete"]
