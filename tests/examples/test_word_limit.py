import json
from pathlib import Path

import pytest

from es_ray import Example
from es_ray.imports import resolve
from es_ray.tasks import TASKS
from tests.short_runs import SETTINGS, evolved, in_process, json_lines

EXAMPLE = f"{Path(__file__).parents[2] / 'examples' / 'word_limit.py'}:WordLimit"


@pytest.mark.parametrize(
    ("completion", "limit", "reward", "correct", "words"),
    [
        ("It is Paris, of course", 3, 0.6, True, 5),
        ("Paris", 3, 1.0, True, 1),
        ("", 3, 1.0, False, 0),
        ("a b c d e f g h i j", None, 0.5, False, 10),
    ],
)
def test_the_score_is_what_the_docstring_says(completion, limit, reward, correct, words):
    metadata = {} if limit is None else {"limit": limit}
    score = resolve("task.name", EXAMPLE, TASKS)().score(Example("?", "Paris", metadata), completion)
    assert score.reward == pytest.approx(reward)
    assert score.metrics == {"correct": correct, "words": words}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    rows = [{"prompt": "What is the capital of France?", "target": "Paris", "limit": 3}]
    rows += [{"prompt": "How many days are in a week?", "target": "7"}]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_process("run", "--task", EXAMPLE, *files(folder), "--local", *SETTINGS, "--output", folder / "run")
    return folder / "run"


def files(folder: Path) -> tuple[str, ...]:
    return tuple(
        part for split in ("train", "test") for part in ("--set", f"task.{split}={folder / split}.jsonl")
    )


def test_its_metrics_are_in_every_file_and_table(run, cli):
    for line in json_lines(run / "metrics.jsonl"):
        assert {"members_words", "centre_words", "test_words", "test_correct"} <= set(line)
        assert "test_exact" not in line
    members = json_lines(run / "generations/0001/population.jsonl")
    first = members[0]["examples"][0]
    assert first["words"] == len(first["completion"].split())
    results = json.loads((run / "test_results.json").read_text())
    assert results["base"]["words"] > 5
    evaluated = cli("evaluate", run)
    assert evaluated.code == 0, evaluated.err
    assert f"{results['base']['words']:.2f}" in evaluated.out and "exact" not in evaluated.out


def test_ray_workers_load_it_too(cluster, run, tmp_path):
    folder = run.parent
    settings = ("run", "--task", EXAMPLE, *files(folder), *SETTINGS, "--workers", 1)
    in_process(*settings, "--output", tmp_path / "ray")
    assert evolved(tmp_path / "ray") == evolved(run)
