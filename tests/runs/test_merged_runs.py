"""Runs of form merged: the same bytes anywhere, resumed from advantages alone, rolled back, evaluated."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from es_ray.engines.base import CENTRE, Variant
from es_ray.runs.run_dir import RunDir
from tests import plain_peft
from tests.merged_reference import Reference
from tests.short_runs import command, es_ray, evolved, in_process, json_lines
from tests.small_models import STOP_IDS, small_model

POPULATION, GENERATIONS = 6, 6
SETTINGS = (
    "--population", POPULATION, "--seed", 5, "--set", "lora.form=merged", "--set", "lora.rank=2",
    "--set", "evolution.noise.relative=0.1", "--set", "evolution.learning_rate=2",
    "--set", "evolution.weight_decay=0.02",
    "--set", "evaluation.kl_every=2", "--set", "engine.shard=2", "--set", "engine.threads=1",
    "--set", "task.batch=3", "--set", "task.max_new_tokens=8", "--set", "evolution.shaping=centered-rank",
)  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("merged")
    rows = [{"prompt": f"What is {n} + {n}?", "target": str(2 * n)} for n in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (*SETTINGS, "--model", small_model(folder / "model"), "--train", folder / "train.jsonl")


@pytest.fixture(scope="module")
def run(options, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    in_process("run", *options, "--local", "--generations", GENERATIONS, "--output", path)
    return path


def folder(run: Path, generation: int) -> Path:
    return run / f"generations/{generation:04d}"


def reference(run: Path, generations: int) -> Reference:
    """From the recorded advantages."""
    found = Reference(RunDir.open(run).config())
    for generation in range(generations):
        members = json_lines(folder(run, generation) / "population.jsonl")
        found.update(generation, np.array([member["advantage"] for member in members]))
    return found


def test_a_generation_leaves_advantages_and_no_adapter(run):
    for generation in range(GENERATIONS):
        names = {path.name for path in folder(run, generation).iterdir()}
        assert names == {"DONE", "population.jsonl", "state.json"}
    assert sum(file.stat().st_size for file in (run / "generations").rglob("*")) < 100_000


def test_members_and_centres_answered_as_plain_models(run):
    """Every recorded completion of two generations, token by token."""
    from es_ray.experiment import Experiment

    experiment = Experiment(RunDir.open(run).config())
    stop = sorted(experiment.source.stop_ids())
    assert stop == STOP_IDS
    answers = set()
    for generation in (1, 5):
        found = reference(run, generation)
        for member in json_lines(folder(run, generation) / "population.jsonl"):
            model = found.model(Variant(member["index"], generation))
            for example in member["examples"]:
                ids = experiment.source.chat_ids([{"role": "user", "content": example["prompt"]}])
                tokens = plain_peft.greedy(model, list(ids), stop, 8)
                assert example["completion"] == experiment.source.text(tokens)
                answers.add(example["completion"])
    assert len(answers) > 10


def test_drift_and_kl_are_recorded(run):
    lines = json_lines(run / "metrics.jsonl")
    assert lines[0]["drift"] == 0 and lines[0]["kl_forward"] == pytest.approx(0, abs=1e-9)
    for generation in range(1, GENERATIONS):
        assert lines[generation]["drift"] == pytest.approx(reference(run, generation).drift(), rel=1e-4)
        assert ("kl_forward" in lines[generation]) == (generation % 2 == 0)
        assert "kl" not in lines[generation]
    assert lines[4]["kl_forward"] > 1e-4
    assert all(line["update_norm"] > 0 for line in lines)


def test_the_last_centre_is_the_references(run):
    from es_ray.experiment import Experiment

    experiment = Experiment(RunDir.open(run).config())
    results = json.loads((run / "test_results.json").read_text())
    base, centre = (
        reference(run, GENERATIONS if who == "centre" else 0).model(Variant(CENTRE))
        for who in ("base", "centre")
    )
    for who, model in (("base", base), ("centre", centre)):
        for example in results[who]["examples"]:
            ids = experiment.source.chat_ids([{"role": "user", "content": example["prompt"]}])
            tokens = plain_peft.greedy(model, list(ids), STOP_IDS, 8)
            assert example["completion"] == experiment.source.text(tokens)


def test_two_workers_give_the_same_bytes(options, run, tmp_path):
    in_process("run", *options, "--workers", 2, "--address", "local", "--generations", GENERATIONS,
               "--output", tmp_path / "run")  # fmt: skip
    assert evolved(tmp_path / "run") == evolved(run)


def test_a_killed_run_resumes_to_the_same_bytes(options, run, tmp_path):
    arguments = ("run", *options, "--local", "--generations", GENERATIONS, "--output", tmp_path / "run")
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 240
        while not (folder(tmp_path / "run", 2) / "DONE").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    in_process("run", "--resume", "--output", tmp_path / "run")
    assert evolved(tmp_path / "run") == evolved(run)


DAMAGED = '''\
import os
from dataclasses import replace

import torch

from es_ray.engines.hf.engine import TransformersEngine
from es_ray.engines.hf.spec import SPEC as USUAL


class DamagedEngine(TransformersEngine):
    """In one of the processes, one number of all that the updates add up to changes after the third call."""

    calls = 0

    def generate(self, *arguments, **named):
        found = super().generate(*arguments, **named)
        self.calls += 1
        if self.calls >= 3 and not os.path.exists(MARK) and self._merged._weights._changes:
            with open(MARK, "x") as mark:
                mark.write(str(os.getpid()))
            with torch.inference_mode():
                self._merged._weights._changes[0][0, 0] += 0.5
        return found


SPEC = replace(USUAL, name="damaged", load=DamagedEngine)
'''


@pytest.mark.slow
def test_a_worker_whose_weights_differ_is_replaced(options, run, tmp_path):
    """Three Ray workers, the memory of one of which is damaged: named, stopped, and nothing of it is used."""
    (tmp_path / "damaged.py").write_text(f"MARK = {str(tmp_path / 'mark')!r}\n{DAMAGED}")
    engine = f"{tmp_path / 'damaged.py'}:SPEC"
    done = es_ray("run", *options, "--engine", engine, "--workers", 3, "--address", "local",
                  "--generations", GENERATIONS, "--output", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    damaged = (tmp_path / "mark").read_text()
    said = " ".join((done.stdout + done.stderr).split())
    assert re.search(rf"the weights of \S+/{damaged} differ from those of most workers", said)
    assert evolved(tmp_path / "run") == evolved(run)
    lines = json_lines(tmp_path / "run/metrics.jsonl")
    assert sum(line["redispatched"] for line in lines) > 0


def test_a_rollback_goes_back_to_earlier_weights(options, tmp_path):
    """With a guard that finds each centre after the first too far away."""
    path = tmp_path / "run"
    guard = ("--set", "guard.max_kl=1e-9", "--set", "guard.action=rollback", "--set", "evaluation.kl_every=1")
    in_process("run", *options, *guard, "--local", "--generations", 4, "--output", path)
    lines = json_lines(path / "metrics.jsonl")
    assert lines[1]["rollback"] == -1
    in_process("run", "--resume", "--output", path, "--generations", 6)
    lines, times = json_lines(path / "metrics.jsonl"), 0
    for generation, line in enumerate(lines):
        if "rollback" in line and generation + 1 < len(lines):
            times, after = times + 1, lines[generation + 1]
            assert after["drift"] == lines[line["rollback"] + 1]["drift"]
            assert after["learning_rate"] == lines[0]["learning_rate"] / 2**times
    assert times >= 2 and lines[1]["drift"] > lines[2]["drift"] == 0


def test_evaluate_replays_any_generation(run, cli):
    ended = cli("evaluate", run, "--generation", 2, "--split", "train", "--json")
    assert ended.code == 0, ended.err
    statistics = json.loads(ended.out)["statistics"]
    assert statistics["centre"]["kl_forward"]["mean"] > 0 and "kl" not in statistics["centre"]
    later = json.loads((run / "metrics.jsonl").read_text().splitlines()[3])
    assert statistics["centre"]["reward"]["mean"] != statistics["base"]["reward"]["mean"]
    assert later["drift"] > 0


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evolution.optimizer=adam", "evolution.optimizer: adam"),
        ("evolution.optimizer=momentum", "evolution.optimizer: momentum"),
        ("evolution.update_scale=absolute", "evolution.update_scale: absolute"),
        ("lora.alpha=4", "lora.alpha: 4 has no effect on lora.form merged"),
        ("init.std=0.1", "init.std: 0.1 has no effect on lora.form merged"),
    ],
)
def test_what_does_not_go_with_merged_is_refused(options, setting, words, tmp_path, cli):
    ended = cli("run", *options, "--set", setting, "--output", tmp_path / "run")
    assert ended.code == 2
    assert words in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_the_report_says_how_to_load_the_model(run):
    text = (run / "report.html").read_text()
    assert "evolved by members&#39; changes of rank 2 (EGGROLL)" in text
    assert f"es-ray export {run} --generation " in text and "--merged --output run-model" in text
    assert "AutoModelForCausalLM.from_pretrained" in text and "PeftModel" not in text
