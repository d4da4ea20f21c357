"""An engine in user code, from the command line to the files; and the class by itself."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from es_ray.config import Config, load
from es_ray.engines import create_engine
from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.errors import EvaluationError, UserError
from es_ray.experiment import Experiment
from es_ray.imports import resolve
from es_ray.preparation import resolve_config
from tests.short_runs import evolved, in_process, json_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "table_engine.py"
SPEC = f"{EXAMPLE}:SPEC"
OPTIONS = (
    "--engine", SPEC, "--generations", 5, "--population", 8, "--seed", 5,
    "--set", "engine.shard=3", "--set", "evolution.antithetic=true",
)  # fmt: skip
ANSWERS = resolve("engine.kind", f"{EXAMPLE}:ANSWERS", {})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "run"
    in_process("run", "--local", *OPTIONS, "--output", path)
    return path


def test_the_reward_rises_to_that_of_the_short_answers(run):
    lines = json_lines(run / "metrics.jsonl")
    assert lines[-1]["reward_mean"] > lines[0]["reward_mean"] + 5
    results = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    longs = [longer for _, longer in list(ANSWERS.values())[2:10]]
    assert [example["completion"] for example in results["base"]["examples"]] == longs
    for example in json_lines(run / "generations/0004/population.jsonl")[0]["examples"]:
        assert example["completion"] in ANSWERS[example["prompt"]]


def test_a_ray_worker_loads_it_and_gives_the_same_bytes(cluster, run, tmp_path):
    in_process("run", "--workers", 1, *OPTIONS, "--output", tmp_path / "ray")
    assert evolved(tmp_path / "ray") == evolved(run)
    assert {line["workers"] for line in json_lines(tmp_path / "ray/metrics.jsonl")} == {1}
    worker = json_lines(tmp_path / "ray/generations/0000/population.jsonl")[0]["worker"]
    assert not worker.endswith(f"/{os.getpid()}")


def test_a_relative_path_is_recorded_as_absolute_and_the_run_resumes_elsewhere(run, tmp_path, monkeypatch):
    stopped = tmp_path / "stopped"
    options = [str(option).replace(str(EXAMPLE), "examples/table_engine.py") for option in OPTIONS]
    monkeypatch.chdir(EXAMPLE.parents[1])
    in_process("run", "--local", *options, "--generations", 3, "--output", stopped)
    assert f"kind: {SPEC}\n" in (stopped / "config.yaml").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    in_process("run", "--resume", "--generations", 5, "--output", stopped)
    assert evolved(stopped) == evolved(run)


def experiment(kind: str = SPEC, **values) -> Experiment:
    return Experiment(load().replace(engine__kind=kind, **values))


def prompt_ids(e: Experiment, number: int) -> tuple[int, ...]:
    return tuple(e.source.chat_ids([{"role": "user", "content": list(ANSWERS)[number]}]))


def test_a_variants_vector_decides_its_answers():
    e = experiment()
    engine = create_engine(e)
    perturbation = e.strategy(engine.info.mean_abs, engine.info.frobenius).perturbation
    theta = np.random.default_rng(3).normal(0, 0.02, perturbation.size).astype(np.float32)
    other = -theta
    variants = [
        Variant(BASE), Variant(CENTRE), Variant(CENTRE, centre=1),
        *(Variant(index, 7, centre, 0.5) for index in range(6) for centre in (0, 1)),
    ]  # fmt: skip
    rows = [Row(variant, prompt_ids(e, number)) for variant in variants for number in range(len(ANSWERS))]
    seen = {}
    completions = engine.generate([theta, other], perturbation, rows, on_completion=seen.__setitem__)
    assert [seen[place] for place in range(len(rows))] == completions

    for place, (row, completion) in enumerate(zip(rows, completions, strict=True)):
        number = place % len(ANSWERS)
        index, generation, centre, factor = row.variant
        start = (theta, other)[centre][number].astype(np.float64)
        if index >= 0:
            noise = perturbation.noise.member(generation, index, 0, perturbation.size)[number]
            start += factor * perturbation.sigma.dense(0, perturbation.size)[number] * noise
        short, longer = list(ANSWERS.values())[number]
        assert e.source.text(completion.token_ids) == (short if index != BASE and start > 0 else longer)
        assert completion.finish_reason == "stop"
        assert completion.token_ids[-1] in e.source.stop_ids()


def test_what_it_cannot_do_is_an_error():
    e = experiment(task__max_new_tokens=3)
    engine = create_engine(e)
    perturbation = e.strategy(engine.info.mean_abs, engine.info.frobenius).perturbation
    theta = np.zeros(perturbation.size, dtype=np.float32)
    row = Row(Variant(CENTRE), prompt_ids(e, 0))
    (cut,) = engine.generate([theta], perturbation, [row])
    assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
    sampled = row._replace(sampling=Sampling(1))
    assert engine.generate([theta], perturbation, [sampled]) == [cut]
    with pytest.raises(EvaluationError, match="no log-probabilities"):
        engine.generate([theta], perturbation, [row], log_probs=True)
    with pytest.raises(EvaluationError, match="the centre of generation 0: the table has no answer"):
        engine.generate([theta], perturbation, [row._replace(prompt_ids=(1, 2))])


def test_a_table_from_a_file(tmp_path):
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.endswith("SPEC = table_spec(ANSWERS)\n")
    copy = tmp_path / "my_engine.py"
    last = 'SPEC = table_spec(Path(__file__).with_name("answers.json"))'
    copy.write_text(text.replace("SPEC = table_spec(ANSWERS)", last), encoding="utf-8")
    assert f"    {last}\n" in text  # what its docstring says to do

    def resolved():
        return resolve_config(Config().replace(engine__kind=f"{copy}:SPEC", cluster__workers=0))

    with pytest.raises(UserError, match="answers.json: cannot be read"):
        resolved()
    (tmp_path / "answers.json").write_text(json.dumps(dict(list(ANSWERS.items())[1:])), encoding="utf-8")
    with pytest.raises(UserError, match=r"task\.train: the table has no answers to 'Solve: 3 \+ 5 ='"):
        resolved()
    (tmp_path / "answers.json").write_text(json.dumps({"Solve: 3 + 5 =": "8"}), encoding="utf-8")
    with pytest.raises(UserError, match="a short and a long answer"):
        resolved()
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS), encoding="utf-8")
    engine = create_engine(Experiment(resolved()))
    assert engine.info.parameters == 0
