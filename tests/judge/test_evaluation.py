"""Evaluations of past runs: other prompts, tasks, samples and members, all in one batch."""

import csv
import io
import json

import numpy as np
import pytest

import es_ray
from es_ray.engines.hf.engine import TransformersEngine
from es_ray.judge.evaluation import Evaluation
from tests.short_runs import POPULATION, json_lines


def test_members_answer_as_they_did_in_their_generation(finished):
    """The training prompts are those of every generation: population.jsonl has the answers."""
    lines = {
        f"{generation}:{index}": json_lines(finished.path / f"generations/{generation:04d}/population.jsonl")[
            index
        ]
        for generation, index in ((0, 1), (2, 4), (2, 5))
    }
    found = es_ray.evaluate(finished.path, split="train", members=list(lines))
    assert list(found.answers) == ["base", "centre", "best", "selected", *lines]
    for name, line in lines.items():
        assert found.answers[name]["examples"] == line["examples"]
        assert found.answers[name]["reward"] == line["reward"]


def test_everything_is_asked_in_shards_as_a_generation_is(finished, monkeypatch):
    """The run's engine.shard is 2: six candidates of eight prompts are three shards, of mixed centres."""
    calls, real = [], TransformersEngine.generate

    def counted(self, centres, perturbation, rows, **options):
        calls.append((len(centres), len(rows), options.get("log_probs", False)))
        return real(self, centres, perturbation, rows, **options)

    monkeypatch.setattr(TransformersEngine, "generate", counted)
    found = es_ray.evaluate(finished.path, members=["0:1", "2:4"])
    answering = [call for call in calls if not call[2]]
    distinct = {json.dumps(a["examples"]) for a in found.answers.values()}
    assert [rows for _, rows, _ in answering] == [2 * 8] * 3
    assert len(distinct) > 3
    assert answering[0][0] >= 4  # centres that they start from


def test_kl_is_that_of_each_candidate_alone(finished):
    together = es_ray.evaluate(finished.path, members=["1:0", "1:1"])
    alone = es_ray.evaluate(finished.path, members=["1:1"])
    kl = {name: each["kl"]["mean"] for name, each in together.statistics.items()}
    assert kl["base"] == 0
    assert min(value for name, value in kl.items() if name != "base") > 0
    assert kl["1:1"] == pytest.approx(alone.statistics["1:1"]["kl"]["mean"], rel=1e-4)
    assert kl["1:0"] != kl["1:1"]
    interval = together.statistics["centre"]["kl"]
    assert 0 < interval["low"] < interval["mean"] < interval["high"]


def test_an_earlier_generation_is_the_centre_that_the_next_one_asked(finished):
    """metrics.jsonl has the test reward of the centre that each generation starts from."""
    for line in json_lines(finished.path / "metrics.jsonl")[1:]:
        found = es_ray.evaluate(finished.path, generation=line["generation"] - 1)
        assert found.answers["centre"]["reward"] == pytest.approx(line["test_reward"])
        assert found.settings["generation"] == line["generation"] - 1


def test_samples_are_different_and_repeat(finished):
    ask = {"samples": 3, "temperature": 1.5}
    found = es_ray.evaluate(finished.path, **ask)
    assert found == es_ray.evaluate(finished.path, **ask)
    examples = found.answers["base"]["examples"]
    assert [example["sample"] for example in examples] == [0, 1, 2] * 8
    assert len({example["completion"] for example in examples}) > 8
    assert found.settings["samples"] == 3
    right = np.array([example["correct"] for example in examples]).reshape(8, 3)
    assert found.statistics["base"]["pass@3"]["mean"] == pytest.approx(right.any(axis=1).mean())
    assert found.answers["base"]["pass@3"] == pytest.approx(right.any(axis=1).mean())
    assert found.statistics["base"]["reward"]["spread"] > 0


def test_another_task_and_other_data_are_asked_on_the_same_adapters(finished, tmp_path):
    rows = [{"prompt": "What is the capital of France?", "target": "Paris"}]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    usual = es_ray.evaluate(finished.path)
    found = es_ray.evaluate(finished.path, data=str(tmp_path / "mine.jsonl"), task="contains")
    (example,) = found.answers["centre"]["examples"]
    known = usual.answers["centre"]["examples"][0]
    assert (example["prompt"], example["completion"]) == (known["prompt"], known["completion"])
    assert example["reward"] == float("paris" in known["completion"].lower())
    assert "normalized_reward" not in found.statistics["centre"]
    assert found.settings["task"] == "contains"
    assert found.settings["data"] == str(tmp_path / "mine.jsonl")


def test_a_run_of_0_1_0_is_evaluated(tmp_path):
    import shutil
    from pathlib import Path

    run = shutil.copytree(Path(__file__).parents[1] / "data/run_0_1_0/run", tmp_path / "run")
    recorded = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    found = es_ray.evaluate(run)
    assert list(found.answers) == ["base", "centre", "best"]
    for name, answer in recorded.items():
        completions = [[e["completion"] for e in each["examples"]] for each in (answer, found.answers[name])]
        assert completions[0] == completions[1]


@pytest.fixture(scope="module")
def quoted() -> Evaluation:
    """Answers with everything in them that CSV must quote."""
    texts = ['line\nof "quotes", and commas', "\r\n", "=1+1\ttab", "語"]
    examples = [
        {
            "prompt": f"a,{number}\nb", "target": None, "sample": number % 2, "completion": text,
            "reward": -0.5 - number, "correct": True, "share": 0.25, "tokens": 3, "finish": "stop",
        }
        for number, text in enumerate(texts)
    ]  # fmt: skip
    answers = {
        name: {"reward": -2.0, "examples": examples} | more
        for name, more in (("base", {}), ("centre", {}), ("best", {"generation": 3, "index": 1}))
    }
    return Evaluation({"samples": 2, "generation": 7}, answers, {})


def test_csv_has_a_row_for_each_candidate_example_and_sample(quoted):
    rows = list(csv.DictReader(io.StringIO(quoted.as_csv(), newline="")))
    assert len(rows) == 3 * 4
    assert [row["candidate"] for row in rows] == ["base"] * 4 + ["centre"] * 4 + ["best"] * 4
    assert [(row["example"], row["sample"]) for row in rows[:4]] == [
        ("0", "0"),
        ("0", "1"),
        ("1", "0"),
        ("1", "1"),
    ]
    for row, example in zip(rows[8:], quoted.answers["best"]["examples"], strict=True):
        assert (row["prompt"], row["completion"]) == (example["prompt"], example["completion"])
        assert (row["target"], row["correct"], row["share"]) == ("", "1", "0.25")
        assert float(row["reward"]) == example["reward"]
        assert int(row["characters"]) == len(example["completion"])
        assert (row["generation"], row["index"]) == ("3", "1")
    assert (rows[0]["generation"], rows[4]["generation"]) == ("", "7")


def test_members_beyond_a_population_are_refused(finished):
    with pytest.raises(es_ray.UserError, match=f"members 0-{POPULATION - 1}"):
        es_ray.evaluate(finished.path, members=[f"0:{POPULATION}"])
