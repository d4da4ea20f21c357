"""Runs that draw prompts and sample completions: what is asked of whom, and the same bytes in every way."""

import json

import pytest

from es_ray.config import load
from es_ray.engines.base import BASE, CENTRE
from es_ray.errors import UserError
from es_ray.evolution.draws import PromptOrder
from es_ray.experiment import Experiment
from tests.short_runs import evolved, json_lines

QUESTIONS = 10
SETTINGS = (
    "--population", 4, "--generations", 3, "--seed", 7,
    "--set", "evolution.antithetic=true",
    "--set", "evolution.noise.multiplier=40",
    "--set", "task.max_new_tokens=8",
    "--set", "engine.shard=2",
)  # fmt: skip
SAMPLED = ("--set", "task.samples=3", "--set", "task.temperature=1.5", "--set", "task.top_p=0.95")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Ten training questions."""
    file = tmp_path_factory.mktemp("questions") / "train.jsonl"
    rows = [{"prompt": f"What is {n} + {n}?", "target": str(2 * n), "n": n} for n in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def experiment(questions, **values) -> Experiment:
    config = load().replace(task__train=str(questions), evolution__antithetic=True, evolution__population=6)
    return Experiment(config.replace(**values))


def test_without_a_batch_all_prompts_are_asked_and_travel_once(questions):
    made = experiment(questions)
    assert made.batch(0) is made.batch(5)
    assert made.batch(0).asked(3, "train") == list(range(QUESTIONS))
    assert made.batch(0).rows(CENTRE, ("train", "test")) == QUESTIONS + 8


@pytest.mark.parametrize(("count", "size"), [(10, None), (32, None), (33, 32)])
def test_an_automatic_batch_is_32_of_more_than_32(count, size, tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "target": "x"}) + "\n" for n in range(count)))
    made = Experiment(load(preset="general").replace(task__train=str(file), evolution__seed=7))
    assert made.config.task.batch == "auto"
    numbers = made.batch(3).asked(0, "train")
    assert numbers == (PromptOrder(7, count).numbers(3 * 32, 32) if size else list(range(count)))
    resolved = made.with_batch_size()
    assert resolved.config == made.config.replace(task__batch=size)
    assert resolved.batch(3).asked(0, "train") == numbers
    assert resolved.with_batch_size() is resolved


def test_an_automatic_batch_is_recorded_printed_and_resumed(tmp_path, cli):
    file, run = tmp_path / "train.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "target": "x"}) + "\n" for n in range(40)))
    options = ("--preset", "general", "--train", file, "--population", 2, "--set", "task.max_new_tokens=1")
    dry = cli("run", "--local", *options, "--dry-run")
    assert "\n  batch: 32\n" in dry.out
    ended = cli("run", "--local", *options, "--generations", 1, "--output", run)
    assert ended.code == 0, ended.err
    assert "32 of 40 training prompts drawn each generation" in ended.out
    assert load(run / "config.yaml").task.batch == 32
    (tmp_path / "mine.yaml").write_text((run / "config.yaml").read_text().replace("batch: 32", "batch: auto"))
    again = ("run", "--resume", "--config", tmp_path / "mine.yaml", "--output", run, "--generations", 2)
    assert cli(*again).code == 0
    assert load(run / "config.yaml").task.batch == 32


def test_a_batch_is_drawn_for_all_members_alike(questions):
    made = experiment(questions, task__batch=4, evolution__seed=7)
    order = PromptOrder(7, QUESTIONS).numbers(0, 40)
    for generation in (0, 1, 2, 9):
        batch, wanted = made.batch(generation), order[4 * generation : 4 * generation + 4]
        for index in (0, 5, CENTRE, BASE):
            assert batch.asked(index, "train") == wanted
        assert set(batch.examples["train"]) == set(wanted)  # no other one travels
        assert [batch.examples["train"][n].metadata["n"] for n in wanted] == wanted
        assert batch.asked(CENTRE, "test") == list(range(8))


def test_each_pair_has_a_batch_of_its_own_and_the_centre_that_of_the_first(questions):
    made = experiment(questions, task__batch=4, task__batch_by="member", evolution__seed=7)
    order = PromptOrder(7, QUESTIONS).numbers(0, 36)
    for generation in (0, 2):
        batch = made.batch(generation)
        pairs = [order[12 * generation + 4 * pair :][:4] for pair in range(3)]
        assert [batch.asked(index, "train") for index in range(6)] == [pairs[i // 2] for i in range(6)]
        assert batch.asked(CENTRE, "train") == batch.asked(BASE, "train") == pairs[0]
        assert set(batch.examples["train"]) == {n for pair in pairs for n in pair}


def test_only_so_many_test_prompts_are_asked_during_a_run_and_all_at_its_end(questions, tmp_path, cli):
    made = experiment(questions, evaluation__examples=3, task__batch=2, task__samples=2, task__temperature=1)
    assert made.batch(0).asked(CENTRE, "test") == [0, 1, 2]
    assert made.batch(0).rows(CENTRE, ("train", "test")) == 2 * (2 + 3)
    assert made.whole_split("test").asked(CENTRE, "test") == list(range(8))
    run = tmp_path / "run"
    more = ("--set", f"task.train={questions}", "--set", "task.batch=2", "--set", "evaluation.examples=3")
    ended = cli("run", "--local", *SETTINGS, *more, "--set", f"task.validation={questions}", "--output", run)
    assert ended.code == 0, ended.err
    assert len(json.loads((run / "test_results.json").read_text())["centre"]["examples"]) == 8
    line = json_lines(run / "metrics.jsonl")[-1]
    assert isinstance(line["validation_reward"], float) and isinstance(line["validation_correct"], float)
    state = json.loads((run / "generations/0000/state.json").read_text())
    assert set(state["base"]) == set(state["examples"]) == {"train", "test", "validation"}


def test_a_worker_prepares_its_engine_without_the_data(questions, tmp_path):
    made = experiment(questions, engine__shard=3)
    assert made.workload.rows == 3 * QUESTIONS + 2 * (8 + 8)  # test and validation
    assert made.workload.prompt_ids == made.token_ids(made.examples["train"][0])
    elsewhere = load().replace(task__train=str(tmp_path / "not-on-this-node.jsonl"))
    assert Experiment(elsewhere, made.workload).workload == made.workload
    with pytest.raises(UserError, match="not-on-this-node"):
        _ = Experiment(elsewhere).workload


@pytest.fixture(scope="module", params=["generation", "member"])
def sampled(request, questions, tmp_path_factory):
    """A run with batches and samples, its options, and its files."""
    from tests.short_runs import in_process

    batch = (
        "--set",
        f"task.train={questions}",
        "--set",
        "task.batch=4",
        "--set",
        f"task.batch_by={request.param}",
    )
    options = (*SETTINGS, *SAMPLED, *batch)
    run = tmp_path_factory.mktemp("sampled") / "run"
    in_process("run", "--local", *options, "--output", run)
    return request.param, options, run


def test_samples_are_recorded_and_their_mean_is_the_reward(sampled):
    by, _, run = sampled
    lines = json_lines(run / "generations/0001/population.jsonl")
    order = PromptOrder(7, QUESTIONS)
    for line in lines:
        start = 4 if by == "generation" else 4 * (2 + line["index"] // 2)
        numbers = order.numbers(start, 4)
        asked = [(example["target"], example["sample"]) for example in line["examples"]]
        assert asked == [(str(2 * n), sample) for n in numbers for sample in range(3)]
        mean = sum(example["reward"] for example in line["examples"]) / 12
        assert line["reward"] == pytest.approx(mean, abs=1e-12)
    texts = [tuple(e["completion"] for e in line["examples"]) for line in lines]
    assert len(set(texts)) > 1 and any(len(set(some[:3])) > 1 for some in texts)


def test_pass_at_k_counts_prompts_with_a_correct_sample(sampled):
    _, _, run = sampled
    for generation, metrics in enumerate(json_lines(run / "metrics.jsonl")):
        rates = []
        for line in json_lines(run / f"generations/{generation:04d}/population.jsonl"):
            correct = [example["correct"] for example in line["examples"]]
            rates.append(sum(any(correct[at : at + 3]) for at in range(0, 12, 3)) / 4)
        assert metrics["members_pass@3"] == pytest.approx(sum(rates) / len(rates))
        assert metrics["members_pass@3"] >= metrics["members_correct"]


def test_the_best_of_a_run_stands_highest_above_those_with_the_same_prompts(sampled):
    by, _, run = sampled
    found = []
    for generation, metrics in enumerate(json_lines(run / "metrics.jsonl")):
        rewards = [
            line["reward"] for line in json_lines(run / f"generations/{generation:04d}/population.jsonl")
        ]
        best = rewards.index(max(rewards))
        same = rewards[best - best % 2 :][:2] if by == "member" else rewards
        assert metrics["best_above_mean"] == pytest.approx(max(rewards) - sum(same) / len(same))
        found.append((max(rewards) - sum(same) / len(same), generation, best))
    _, generation, index = max(found)
    best = json.loads((run / "test_results.json").read_text())["best"]
    assert (best["generation"], best["index"]) == (generation, index)


@pytest.mark.parametrize(
    "sampled", ["member", pytest.param("generation", marks=pytest.mark.slow)], indirect=True
)
def test_the_same_bytes_with_two_workers(sampled, tmp_path, cli):
    _, options, run = sampled
    ended = cli("run", "--workers", 2, *options, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert evolved(tmp_path / "run") == evolved(run)


def test_the_same_bytes_resumed(sampled, tmp_path, cli):
    _, options, run = sampled
    assert cli("run", "--local", *options, "--generations", 1, "--output", tmp_path / "run").code == 0
    ended = cli("run", "--local", "--resume", "--generations", 3, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert evolved(tmp_path / "run") == evolved(run)


def test_rows_that_do_not_fit_a_batch_come_in_the_next(questions, tmp_path, cli):
    """5 rows at a time cut candidates; the answers are those of one batch, up to rounding."""
    both = []
    for rows in (5, 1000):
        run = tmp_path / str(rows)
        more = ("--set", f"task.train={questions}", "--set", f"engine.rows={rows}", "--generations", 1)
        assert cli("run", "--local", *SETTINGS, *more, "--output", run).code == 0
        both.append(json_lines(run / "generations/0000/population.jsonl"))
    for one, other in zip(*both, strict=True):
        assert [e["completion"] for e in one["examples"]] == [e["completion"] for e in other["examples"]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("task.batch=0",), ("task.batch", "0", "1")),
        (("task.batch=-3",), ("task.batch", "-3")),
        (("task.batch=11",), ("task.batch", "11", "10 training examples")),
        (("task.batch=2", "task.batch_by=member", "evolution.antithetic=false"),
         ("task.batch_by", "antithetic")),
        (("task.batch_by=member",), ("task.batch_by", "batch")),
        (("task.batch=2", "task.batch_by=pair"), ("task.batch_by", "pair", "member")),
        (("task.temperature=-1",), ("task.temperature", "-1", "0")),
        (("task.temperature=.nan",), ("task.temperature", "nan")),
        (("task.samples=2",), ("task.samples", "temperature")),
        (("task.samples=0", "task.temperature=1"), ("task.samples", "0")),
        (("task.top_p=0.5",), ("task.top_p", "temperature")),
        (("task.top_p=0", "task.temperature=1"), ("task.top_p", "0")),
        (("engine.rows=0",), ("engine.rows", "0", "auto")),
        (("evaluation.examples=0",), ("evaluation.examples", "0")),
        (("task.validation=/nowhere.jsonl",), ("/nowhere.jsonl",)),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(questions, tmp_path, cli, settings, words):
    sets = [word for item in (f"task.train={questions}", *settings) for word in ("--set", item)]
    ended = cli("run", "--local", *SETTINGS, *sets, "--output", tmp_path / "run")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert all(word in ended.err for word in words), ended.err
    assert not (tmp_path / "run").exists()
