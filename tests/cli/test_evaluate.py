"""`es-ray evaluate` with other workers and another engine than a run had."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from es_ray.config import load
from es_ray.errors import UserError
from es_ray.judge.evaluation_request import EvaluationRequest
from es_ray.paths import data_dir
from tests.short_runs import in_process
from tests.small_models import small_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "table_engine.py"
APART = f"""
import os
from dataclasses import replace
from pathlib import Path
from es_ray.imports import resolve

TABLE = resolve("engine.kind", "{EXAMPLE}:SPEC", {{}})

def load(experiment):
    Path("PID_FILE").write_text(str(os.getpid()))  # not beside this file: a worker imports a copy
    return TABLE.load(experiment)

SPEC = replace(TABLE, load=load, in_process=False)
"""


def recorded_as(run: Path, **sections: dict) -> Path:
    """The run, with keys of its config.yaml changed."""
    file = run / "config.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    for name, keys in sections.items():
        tree[name] |= keys
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return run


def recorded_answers(run: Path, out: str) -> dict:
    """The answers of an evaluation, which must be those in test_results.json; returns all of it."""
    found = json.loads(out)
    recorded = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    assert {name: found[name] for name in recorded} == recorded
    assert list(found) == [*recorded, "settings", "statistics"]
    return found


def contents(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.fixture
def clusters(copied) -> Path:
    """A run as SGLang would have made it on a cluster, with models over more GPUs than any machine has."""
    engine = {"kind": "sglang", "tensor_parallel": 64, "sglang": {"page_size": 1}}
    return recorded_as(copied, engine=engine, cluster={"workers": 4, "address": "auto"})


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_none(finished, cli):
    local, shared = (cli("evaluate", finished.path, "--json", *more) for more in ((), ("--workers", 2)))
    assert (local.code, shared.code) == (0, 0), local.err + shared.err
    assert local.out == shared.out
    recorded_answers(finished.path, local.out)
    assert (local.err, shared.err) == ("", "")


def test_a_run_of_a_cluster_is_evaluated_here_by_another_engine(clusters, finished, cli):
    before = contents(clusters)
    ended = cli("evaluate", clusters, "--engine", "transformers", "--json")
    assert ended.code == 0, ended.err
    recorded_answers(finished.path, ended.out)
    table = cli("evaluate", clusters, "--engine", "transformers", "--local")
    assert table.out.startswith("test split, after generation 3, answered by transformers")
    assert cli("evaluate", finished.path).out.startswith("test split, after generation 3 ")
    assert contents(clusters) == before


@pytest.mark.parametrize("more", [(), ("--json",), ("--workers", 2), ("--local",), ("--address", "local")])
def test_without_the_gpus_of_its_engine_another_one_is_advised(clusters, cli, more):
    before = contents(clusters)
    ended = cli("evaluate", clusters, *more)
    assert ended.code == 2
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("es-ray: engine.kind: sglang needs 64 GPUs, this machine has ")
    assert "--engine transformers" in line
    assert contents(clusters) == before


def test_a_model_with_other_weights_is_refused_whichever_engine_answers(clusters, tmp_path, cli):
    model = Path(shutil.copytree(data_dir() / "tiny_chat", tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    changed = {name: tensor * np.float32(1.01) for name, tensor in weights.items()}
    save_file(changed, model / "model.safetensors", metadata={"format": "pt"})
    ended = cli("evaluate", recorded_as(clusters, model={"path": str(model)}), "--engine", "transformers")
    assert ended.code == 1
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.endswith("was started on a model with other weights: model.safetensors differs")


def test_another_model_in_the_place_of_the_runs_is_refused(clusters, tmp_path, cli):
    run = recorded_as(clusters, model={"path": str(small_model(tmp_path / "model"))})
    for ended in (
        cli("evaluate", run, "--engine", "transformers"),
        cli("member", run, "--generation", 1, "--index", 0, "--output", tmp_path / "member"),
    ):
        assert ended.code == 1
        (line,) = ended.err.splitlines()
        assert line.endswith(f"another model than {tmp_path}/model is now: with 28 adapted layers, now 14")
    assert not (tmp_path / "member").exists()


def test_an_engine_that_may_end_its_process_runs_in_a_worker(copied, tmp_path, cli):
    (tmp_path / "apart.py").write_text(APART.replace("PID_FILE", str(tmp_path / "pid")))
    kind = f"{tmp_path}/apart.py:SPEC"
    run = recorded_as(copied, engine={"kind": kind}, cluster={"workers": 7, "address": "nowhere:1"})
    ended = cli("evaluate", run, "--json")
    assert ended.code == 0, ended.err
    assert list(json.loads(ended.out))[:4] == ["base", "centre", "best", "selected"]
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    refused = cli("evaluate", run, "--local")
    assert refused.code == 2
    assert "engine.kind: table runs in Ray workers" in refused.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--local", "--workers", 2), ("--local", "--workers")),
        (("--local", "--address", "auto"), ("--local", "--address")),
        (("--workers", 0, "--address", "auto"), ("cluster.address", "auto")),
        (("--workers", -1), ("cluster.workers", "-1", "0")),
        (("--workers", "many"), ("--workers", "many", "integer")),
        (("--address", "not-an-address"), ("--address", "not-an-address", "host:port")),
        (("--address", "127.0.0.1:1"), ("--address 127.0.0.1:1", "nothing answers")),
        (("--engine", "vllm"), ("engine.kind", "vllm", "transformers")),
        (("--engine", "nowhere.py:SPEC"), ("engine.kind", "nowhere.py", "no such file")),
    ],
)
def test_bad_input_is_refused_in_one_line(finished, cli, more, words):
    ended = cli("evaluate", finished.path, *more)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--split", "test", "--data", "x.jsonl"), ("--data x.jsonl", "--split test")),
        (("--split", "validation"), ("--split validation", "task.validation")),
        (("--split", "nowhere"), ("--split", "nowhere", "validation")),
        (("--data", "x.jsonl"), ("x.jsonl", "no such file")),
        (("--task", "nowhere"), ("task.name", "nowhere", "conciseness")),
        (("--task", "contains"), ("--task contains", "--data")),
        (("--set", "task.nowhere=1"), ("task.nowhere", "unknown key")),
        (("--set", "evolution.seed=1"), ("--set evolution.seed", "task")),
        (("--samples", 0), ("--samples 0", "at least 1")),
        (("--samples", 3), ("--samples 3", "--temperature")),
        (("--samples", "many"), ("--samples", "many", "integer")),
        (("--temperature", 0), ("--temperature 0", "above 0", "--greedy")),
        (("--temperature", -1, "--samples", 3), ("--temperature -1", "above 0")),
        (("--temperature", "nan"), ("--temperature nan", "above 0")),
        (("--temperature", 1000), ("task.temperature", "1000", "100")),
        (("--greedy", "--samples", 3), ("--greedy", "--samples")),
        (("--greedy", "--set", "task.samples=4"), ("--greedy", "--set task.samples")),
        (("--greedy", "--set", "task.temperature=1"), ("--greedy", "--set task.temperature")),
        (("--greedy", "--set", "task.top_p=0.9"), ("--greedy", "--set task.top_p")),
        (("--set", "task.samples=4"), ("task.samples: 4", "temperature")),
        (("--set", "task.top_p=0.9"), ("task.top_p: 0.9", "temperature 0")),
        (("--set", "task.temperature=many"), ("task.temperature", "many")),
        (("--set", "task.temperature=0", "--samples", 2), ("--samples 2", "--temperature")),
        (("--set", "task.batch=2"), ("--set task.batch", "no batch")),
        (("--generation", 99), ("--generation 99", "0-3")),
        (("--member", 3), ("--member 3", "GENERATION:INDEX")),
        (("--member", "0:-1"), ("--member 0:-1", "GENERATION:INDEX")),
        (("--member", "9:0"), ("--member 9:0", "0-3")),
        (("--member", "0:6"), ("--member 0:6", "members 0-5")),
        (("--json", "--csv"), ("--json", "--csv", "one of the two")),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(finished, cli, more, words):
    before = contents(finished.path)
    test_bad_input_is_refused_in_one_line(finished, cli, more, words)
    assert contents(finished.path) == before


def test_data_that_the_task_cannot_score_are_refused_before_the_model_is_loaded(finished, cli, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"prompt": "a", "target": 5}\n', encoding="utf-8")
    ended = cli("evaluate", finished.path, "--data", tmp_path / "mine.jsonl")
    assert (ended.code, ended.out) == (2, "")
    assert "mine.jsonl, line 1" in ended.err


def test_the_table_has_intervals_differences_and_samples(finished, cli):
    ended = cli("evaluate", finished.path, "--samples", 2, "--temperature", 1, "--member", "1:3")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("test split, after generation 3, 2 samples at temperature 1")
    for words in ("generation 1, member 3", "less base", "pass@2", "KL to base", "normalised reward", "±"):
        assert words in ended.out
    assert "95% bootstrap interval" in ended.out


def test_csv_and_json_hold_the_same_answers(finished, cli):
    as_csv, as_json = (cli("evaluate", finished.path, form) for form in ("--csv", "--json"))
    rows = list(csv.DictReader(io.StringIO(as_csv.out, newline="")))
    found = recorded_answers(finished.path, as_json.out)
    names = ("base", "centre", "best", "selected")
    expected = [(name, e["completion"], e["reward"]) for name in names for e in found[name]["examples"]]
    assert [(row["candidate"], row["completion"], float(row["reward"])) for row in rows] == expected


@pytest.mark.parametrize(
    "more",
    [
        ("--temperature", 0.7, "--set", "task.top_p=0.9", "--set", "task.samples=2"),
        ("--set", "task.top_p=0.9", "--set", "task.temperature=0.7", "--samples", 2),
        ("--set", "task.samples=2", "--set", "task.temperature=0.7", "--set", "task.top_p=0.9"),
        ("--set", "task.samples=5", "--samples", 2, "--temperature", 0.7, "--set", "task.top_p=0.9"),
    ],
)
def test_what_is_asked_applies_together_in_any_order(finished, more):
    task = asked(more).config(load(file=finished.path / "config.yaml")).task
    assert (task.samples, task.temperature, task.top_p) == (2, 0.7, 0.9)


def asked(options: tuple) -> EvaluationRequest:
    """The request of options as the command would make it."""
    values: dict = {"sets": []}
    for name, value in zip(options[::2], options[1::2], strict=True):
        if name == "--set":
            values["sets"].append(value)
        else:
            values[name.removeprefix("--")] = value
    return EvaluationRequest(**values)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "task.temperature=0"), ("--set task.temperature=0", "task.samples 3", "--greedy")),
        (("--set", "task.temperature=0", "--samples", 1), ("--set task.temperature=0", "task.top_p 0.8")),
    ],
)
def test_a_sampling_run_is_asked_greedily_by_greedy(finished, more, words):
    sampled = {"samples": 3, "temperature": 1.0, "top_p": 0.8}
    config = load(file=finished.path / "config.yaml")
    config = config.replace(task={**config.task.model_dump(), **sampled})
    with pytest.raises(UserError) as error:
        asked(more).config(config)
    for word in words:
        assert word in str(error.value)
    greedy = EvaluationRequest(greedy=True).config(config).task
    assert (greedy.samples, greedy.temperature, greedy.top_p) == (1, 0.0, 1.0)


@pytest.fixture(scope="module")
def start_selected(tmp_path_factory) -> Path:
    """A run whose steps are too small to change an answer: the start is selected, as the earliest on ties."""
    run = tmp_path_factory.mktemp("start") / "run"
    options = ("--generations", 2, "--population", 2, "--set", "evolution.learning_rate=1e-12")
    in_process("run", "--local", *options, "--set", "task.max_new_tokens=8", "--output", run)
    return run


def test_the_selected_centre_has_a_column_also_if_it_answers_as_the_last_one(start_selected, cli):
    results = json.loads((start_selected / "test_results.json").read_text(encoding="utf-8"))
    assert results["selected"]["generation"] == -1
    assert results["selected"]["examples"] == results["centre"]["examples"]
    ended = cli("evaluate", start_selected)
    assert ended.code == 0, ended.err
    assert "selected (the start)" in " ".join(ended.out.split())
    assert "also the selected one" not in " ".join(ended.out.split())


def test_a_selected_centre_that_came_later_is_said_to_be_left_out(copied, cli):
    (copied / "selected.json").write_text(json.dumps({"generation": 2, "why": "", "split": "train"}))
    early, late = (cli("evaluate", copied, "--generation", generation) for generation in (1, 3))
    assert early.code == late.code == 0, early.err
    assert "the selected centre is left out: it came later, after generation 2" in " ".join(early.out.split())
    assert "left out" not in late.out
    as_json = json.loads(cli("evaluate", copied, "--generation", 1, "--json").out)
    assert as_json["settings"]["selected"] == 2
    assert "selected" not in as_json


def test_a_task_with_test_data_alone_is_asked_these(finished, cli, tmp_path):
    (tmp_path / "asks.py").write_text(
        "import es_ray\n\n"
        "class Asks(es_ray.Task):\n"
        "    test = [es_ray.Example('What is the capital of France?', 'Paris')]\n\n"
        "    def score(self, example, completion):\n"
        "        return float('Paris' in completion)\n"
    )
    ended = cli("evaluate", finished.path, "--task", f"{tmp_path}/asks.py:Asks", "--json")
    assert ended.code == 0, ended.err
    assert len(json.loads(ended.out)["centre"]["examples"]) == 1
    refused = cli("evaluate", finished.path, "--task", f"{tmp_path}/asks.py:Asks", "--split", "train")
    assert refused.code == 2
    assert "has no train data of its own" in refused.err
    table = cli("evaluate", finished.path, "--task", f"{tmp_path}/asks.py:Asks")
    assert "one prompt has no interval" in table.out
    assert "[" not in table.out.partition("What is")[0]


def test_intervals_over_few_prompts_are_called_narrow(finished, cli):
    words = " ".join(cli("evaluate", finished.path).out.split())
    assert "over fewer than 20 prompts" in words
    assert "intervals are narrower than 95%" in words
