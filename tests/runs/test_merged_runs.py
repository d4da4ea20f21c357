"""Runs of form merged: the same bytes anywhere, resumed from advantages alone, rolled back, evaluated."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from es_ray.engines.base import BASE, CENTRE, Variant
from es_ray.engines.merged_weights import MergedWeights
from es_ray.experiment import Experiment
from es_ray.lora.checkpoints import CHANGES
from es_ray.runs.run_dir import RunDir
from es_ray.workers.worker import Worker
from tests import plain_peft
from tests.merged_reference import Reference
from tests.short_runs import es_ray, evolved, in_process, json_lines
from tests.small_models import STOP_IDS, small_model

POPULATION, GENERATIONS = 6, 6
SETTINGS = (
    "--population", POPULATION, "--seed", 5, "--set", "lora.form=merged", "--set", "lora.rank=2",
    "--set", "evolution.noise.relative=0.1", "--set", "evolution.learning_rate=2",
    "--set", "evolution.weight_decay=0.02",
    "--set", "evaluation.kl_every=2", "--set", "engine.shard=2", "--set", "engine.threads=1",
    "--set", "task.batch=3", "--set", "task.max_new_tokens=8", "--set", "evolution.shaping=centered-rank",
    "--set", "output.checkpoint_every=2",
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
        more = {0: {"base_samples.jsonl"}, 2: {CHANGES}, 4: {CHANGES}}.get(generation, set())
        assert names == {"DONE", "population.jsonl", "state.json"} | more
    assert sum(f.stat().st_size for f in (run / "generations").rglob("*") if f.name != CHANGES) < 100_000


def test_a_checkpoint_is_the_references_change_of_the_centre_that_a_generation_starts_from(run):
    base = reference(run, 0).weights()
    for generation in (2, 4):
        found = load_file(folder(run, generation) / CHANGES)
        weights = reference(run, generation).weights()
        assert found.keys() == weights.keys()
        for name, change in found.items():
            wanted = weights[name] - base[name]
            assert change.dtype == np.float32
            assert np.abs(change - wanted).max() <= 1e-5 * np.abs(wanted).max() > 0
    subprocess.run(["sha256sum", "-c", "--quiet", "DONE"], cwd=folder(run, 4), check=True)


def test_members_and_centres_answered_as_plain_models(run):
    """Every recorded completion of two generations, token by token."""
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


def log_probs(model, sample: dict) -> np.ndarray:
    """Of the tokens of a recorded sample, in float64."""
    ids, start = torch.tensor([[*sample["prompt_ids"], *sample["token_ids"]]]), len(sample["prompt_ids"])
    with torch.no_grad():
        found = model.double()(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return found.gather(-1, ids[0, start:, None])[:, 0].numpy()


def test_the_kl_is_that_of_the_recorded_samples_in_float64(run):
    """Of the prompts of generation 0, by the base model's own seeds, in each measurement."""
    experiment = Experiment(RunDir.open(run).config())
    samples = json_lines(folder(run, 0) / "base_samples.jsonl")
    batch = experiment.batch(0)
    wanted = [list(experiment.token_ids(batch.examples["train"][n])) for n in batch.numbers["train"]]
    assert [sample["prompt_ids"] for sample in samples] == wanted
    base = [log_probs(reference(run, 0).model(Variant(BASE)), sample) for sample in samples]
    for sample, exact in zip(samples, base, strict=True):
        assert np.abs(sample["log_probs"] - exact).max() < 2e-4
    lines = json_lines(run / "metrics.jsonl")
    for generation in (2, 4):
        centre = [log_probs(reference(run, generation).model(Variant(CENTRE)), sample) for sample in samples]
        log_rho = np.concatenate(centre) - np.concatenate(base)
        kl = np.mean(np.exp(log_rho) - 1 - log_rho)
        assert lines[generation]["kl_forward"] == pytest.approx(kl, rel=1e-3) and kl > 1e-4


def test_a_resumed_run_reads_its_samples_and_makes_damaged_ones_again(run, tmp_path, cli, monkeypatch):
    made, sample = [], Worker.base_samples
    monkeypatch.setattr(Worker, "base_samples", lambda *them: made.append(them) or sample(*them))
    for damaged in (False, True):
        path = tmp_path / f"run{damaged}"
        shutil.copytree(run, path)
        for generation in (4, 5):
            shutil.rmtree(folder(path, generation))
        file = folder(path, 0) / "base_samples.jsonl"
        if damaged:
            file.write_bytes(file.read_bytes()[:-9])
        ended = cli("run", "--resume", "--output", path)
        assert ended.code == 0, ended.err
        assert (f"{file}: torn or edited" in " ".join((ended.out + ended.err).split())) == damaged
        assert len(made) == damaged
        kls = [
            [line.get("kl_forward") for line in json_lines(each / "metrics.jsonl")] for each in (path, run)
        ]
        assert kls[0] == kls[1]


def test_the_last_centre_is_the_references(run):
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


def test_a_killed_run_resumes_to_the_same_bytes(drivers, options, run, tmp_path):
    """Killed before it names generation 3 complete: after a checkpoint, and samples of the base model."""
    arguments = ("run", *options, "--local", "--generations", GENERATIONS, "--output", tmp_path / "run")
    steps = tmp_path / "steps"
    whole = drivers(*arguments[:-1], tmp_path / "whole", folder=tmp_path / "whole", trace=steps)
    assert whole.code == 0, whole.err
    step = steps.read_text().splitlines().index("os.rename generations/.0003")
    assert drivers(*arguments, folder=tmp_path / "run", step=step).code == -signal.SIGKILL
    assert not folder(tmp_path / "run", 3).exists() and (folder(tmp_path / "run", 2) / "DONE").exists()
    in_process("run", "--resume", "--output", tmp_path / "run")
    assert evolved(tmp_path / "run") == evolved(run)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_resumes_from_a_checkpoint_or_around_a_damaged_one_to_the_same_bytes(
    run, damaged, tmp_path, cli
):
    """After generation 4, in the middle of 5, of which an unfinished folder is left."""
    path = tmp_path / "run"
    shutil.copytree(run, path)
    (folder(path, 5) / "DONE").unlink()
    folder(path, 5).rename(path / "generations/.0005")
    torn = folder(path, 4) / CHANGES
    if damaged:
        torn.write_bytes(torn.read_bytes()[:-5])
    ended = cli("run", "--resume", "--output", path)
    assert ended.code == 0, ended.err
    said = " ".join((ended.out + ended.err).split())
    assert (f"{torn}: torn or edited" in said) == damaged
    used = folder(path, 2 if damaged else 4) / CHANGES
    assert f"replaying from {used}, after {2 if damaged else 4} generations" in said
    both = [evolved(each) for each in (path, run)]
    if damaged:
        for each in both:
            del each[f"generations/0004/{CHANGES}"]
    assert both[0] == both[1]


def test_pruning_keeps_the_checkpoints_that_a_replay_of_what_matters_starts_from(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    lines = json_lines(path / "metrics.jsonl")
    best = max(range(GENERATIONS), key=lambda g: lines[g]["best_above_mean"])
    there = {0, 1, 3, 4, 5}
    for keep, selected in ((3, 2), (1, 2), (1, 1), (1, 0), (1, -1)):
        for generation in range(GENERATIONS):
            (folder(path, generation) / CHANGES).unlink(missing_ok=True)
            if generation in there:
                (folder(path, generation) / CHANGES).touch()
        (path / "selected.json").write_text(json.dumps({"generation": selected}))
        RunDir.open(path).prune(keep, states=True)
        kept = {g for g in there if (folder(path, g) / CHANGES).exists()}
        starts = {max(g for g in there if g <= start) for start in (best, selected + 1)}
        assert kept == {4, 5} | starts | ({3} if keep == 3 else set())


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
        if self.calls >= 3 and not os.path.exists(MARK) and self._merged._weights._matrices:
            with open(MARK, "x") as mark:
                mark.write(str(os.getpid()))
            with torch.inference_mode():
                self._merged._weights.change(0)[0, 0] += 0.5
        return found


SPEC = replace(USUAL, name="damaged", load=DamagedEngine)
'''


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_whose_weights_differ_is_replaced(options, run, tmp_path, workers):
    """The memory of a Ray worker is damaged: it is named, stopped, and nothing of it is used.

    Of two workers that answer, two of three among them, both are, as nobody knows which is the one.
    """
    (tmp_path / "damaged.py").write_text(f"MARK = {str(tmp_path / 'mark')!r}\n{DAMAGED}")
    engine = f"{tmp_path / 'damaged.py'}:SPEC"
    done = es_ray("run", *options, "--engine", engine, "--workers", workers, "--address", "local",
                  "--generations", GENERATIONS, "--output", tmp_path / "run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    damaged = (tmp_path / "mark").read_text()
    said = " ".join((done.stdout + done.stderr).split())
    assert re.search(rf"the weights of [^:]*/{damaged}\b[^:]* differ\b", said)
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


def test_evaluate_replays_any_generation(run, cli, monkeypatch):
    load, loaded = MergedWeights.load, []
    monkeypatch.setattr(MergedWeights, "load", lambda *them: loaded.append(them[1].path) or load(*them))
    ended = cli("evaluate", run, "--generation", 2, "--split", "train", "--json")
    assert ended.code == 0, ended.err
    assert folder(run, 2) / CHANGES in loaded
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
        ("output.checkpoint_every=0", "output.checkpoint_every: 0 is not allowed: input should be greater"),
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
