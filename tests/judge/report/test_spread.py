import numpy as np
import pytest

from es_ray.judge.report import spread
from es_ray.judge.report.spread import evenly, member_rewards, reward_spread
from es_ray.runs.run_dir import RunDir
from tests.judge.report.pages import add_generation
from tests.short_runs import json_lines


def test_quantiles_are_those_of_the_recorded_rewards(finished):
    run = RunDir(finished.path)
    found = reward_spread(run, run.complete_generations())
    assert not found.problems
    for row, generation in enumerate(found.generations.astype(int)):
        lines = json_lines(run.generation(generation) / "population.jsonl")
        rewards = sorted(line["reward"] for line in lines)
        assert found.values[row, 0] == rewards[0]
        assert found.values[row, -1] == rewards[-1]
        assert found.values[row, 3] == pytest.approx(np.median(rewards))
        assert (np.diff(found.values[row]) >= 0).all()


def test_rewards_are_the_members_not_those_of_their_answers(copied):
    tricky = {"prompt": '", "reward": 5', "completion": "", "reward": 7.0}
    population = [
        {"index": 0, "reward": -1.5e-07, "advantage": 0.0, "worker": '"reward": 3', "examples": [tricky]},
        {"index": 1, "reward": 12345678.0, "advantage": 0.0, "reward_x": 2.0},
    ]
    add_generation(copied, 7, population)
    assert member_rewards(RunDir(copied).generation_folder(7)).tolist() == [-1.5e-07, 12345678.0]


def test_of_many_generations_a_hundred_are_read_the_first_and_the_last_among_them(copied, monkeypatch):
    monkeypatch.setattr(spread, "MOST_READ", 10)
    for number in range(4, 40):
        add_generation(copied, number, [{"index": 0, "reward": float(number)}])
    run = RunDir(copied)
    found = reward_spread(run, run.complete_generations())
    assert len(found.generations) == 10
    assert found.generations[0] == 0
    assert found.generations[-1] == 39
    assert set(np.diff(found.generations)) <= {4, 5}


def test_of_large_generations_fewer_are_read(copied, monkeypatch):
    run = RunDir(copied)
    size = max((run.generation(g) / "population.jsonl").stat().st_size for g in range(4))
    monkeypatch.setattr(spread, "MOST_BYTES", 3 * size)
    assert len(reward_spread(run, run.complete_generations()).generations) == 3


def test_a_large_population_is_read_from_its_compressed_file(copied):
    text = "x" * 600_000
    add_generation(copied, 4, [{"index": at, "reward": float(at), "examples": [text]} for at in range(3)])
    folder = RunDir(copied).generation_folder(4)
    assert (folder.path / "population.jsonl.gz").is_file()
    assert member_rewards(folder).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 10_000])
def test_evenly_keeps_both_ends(count):
    found = evenly(range(count), 100)
    assert found == sorted(set(found))
    assert len(found) == min(count, 100)
    assert found[0] == 0
    assert found[-1] == count - 1
