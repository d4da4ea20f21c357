"""Runs whose B alone evolves, with relative noise: what they record, resume and rebuild."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from es_ray.config import load
from tests import plain_peft
from tests.short_runs import evolved, in_process, json_lines, tensors
from tests.small_models import edit_json

GENERATIONS = 4
OPTIONS = (
    "--local", "--preset", "general", "--population", 4, "--seed", 3, "--set", "evolution.noise.relative=0.5",
    "--set", "engine.shard=2", "--set", "task.max_new_tokens=16", "--set", "task.name=conciseness",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("form_b") / "run"
    in_process("run", *OPTIONS, "--generations", GENERATIONS, "--output", path)
    return path


def folder(run: Path, generation: int) -> Path:
    return run / f"generations/{generation:04d}"


def test_a_is_fixed_with_rows_of_length_1_and_b_evolves(run):
    assert not json_lines(run / "metrics.jsonl")[0]["zero_variance"]
    adapters = [tensors(folder(run, g) / name) for g in range(GENERATIONS) for name in ("adapter", "best")]
    for name, first in adapters[0].items():
        of_a = ".lora_A." in name
        if of_a:
            assert np.linalg.norm(first, axis=1) == pytest.approx(np.ones(len(first)), abs=1e-6)
        for other in adapters[1:]:
            assert np.array_equal(first, other[name]) == of_a
    card = (folder(run, 1) / "adapter/README.md").read_text()
    assert "Only its B was evolved" in card


def test_the_first_centre_is_the_base_model(run):
    first = json_lines(run / "metrics.jsonl")[0]
    base = json.loads((folder(run, 0) / "state.json").read_text())["base"]
    for split in ("train", "test"):
        mine = {name: first[f"{'centre' if split == 'train' else split}_{name}"] for name in base[split]}
        assert mine == base[split]
    assert load(run / "config.yaml").lora.form == "b"


def test_members_and_centres_are_rebuilt_also_after_pruning(run, tmp_path, cli):
    pruned = Path(shutil.copytree(run, tmp_path / "pruned"))
    for generation in range(GENERATIONS):
        for name in ("adapter", "best"):
            shutil.rmtree(folder(pruned, generation) / name)
        (folder(pruned, generation) / "state.safetensors").unlink()
    best = json_lines(run / "metrics.jsonl")[2]["best_index"]
    for which, recorded in ((("--index", best), "best"), (("--centre",), "adapter")):
        ended = cli("member", pruned, "--generation", 2, *which, "--output", tmp_path / recorded)
        assert ended.code == 0, ended.err
        name = "adapter_model.safetensors"
        assert (tmp_path / recorded / name).read_bytes() == (folder(run, 2) / recorded / name).read_bytes()
    model = plain_peft.adapted_model(tmp_path / "best")
    assert sum(".lora_B." in name for name, _ in model.named_parameters()) == 28


def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(run, tmp_path):
    short = tmp_path / "short"
    in_process("run", *OPTIONS, "--generations", 2, "--output", short)
    in_process("run", "--resume", "--local", "--output", short, "--generations", GENERATIONS)
    assert evolved(short) == evolved(run)


def test_resuming_takes_the_recorded_norms(run, tmp_path, cli):
    """Not those that an engine reports now, which another device rounds differently."""
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    last = folder(copy, GENERATIONS - 1)
    norms = json.loads((last / "state.json").read_text())["frobenius"]
    assert len(norms) == 28
    changed = [norm * (1 + 1e-6) for norm in norms]
    edit_recorded(last, frobenius=changed)
    ended = cli("run", "--resume", "--local", "--output", copy, "--generations", GENERATIONS + 1)
    assert ended.code == 0, ended.err
    assert json.loads((folder(copy, GENERATIONS) / "state.json").read_text())["frobenius"] == changed


def test_other_norms_than_the_recorded_ones_are_other_weights(run, tmp_path, cli):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    last = folder(copy, GENERATIONS - 1)
    edit_recorded(last, weights={}, frobenius=[1.0] * 28)
    ended = cli("run", "--resume", "--local", "--output", copy, "--generations", GENERATIONS + 1)
    assert ended.code == 1
    assert "other weights: ||W||_F differs" in ended.err


def test_a_run_from_before_norms_were_recorded_resumes_to_the_same_bytes(copied, finished, tmp_path, cli):
    """Its configuration lacks the keys of relative noise and of the form, too."""
    for generation in range(2):
        edit_recorded(folder(copied, generation), frobenius=None)
    for generation in (2, 3):
        shutil.rmtree(folder(copied, generation))
    config = copied / "config.yaml"
    text = config.read_text()
    assert "  form: both\n" in text and "    relative: null\n" in text
    config.write_text(text.replace("  form: both\n", "").replace("    relative: null\n", ""))
    in_process("run", "--resume", "--local", "--output", copied)
    mine, wanted = evolved(copied), evolved(finished.path)
    for generation in range(2):
        name = f"generations/{generation:04d}/state.json"
        assert mine.pop(name) != wanted.pop(name)
    assert mine == wanted
    for generation in (1, 3):
        out = tmp_path / str(generation)
        assert cli("member", copied, "--generation", generation, "--index", 2, "--output", out).code == 0


def edit_recorded(generation: Path, **values) -> None:
    """Change state.json as another version would have written it: its checksum is right. None: without."""
    state, done = generation / "state.json", generation / "DONE"
    before = hashlib.sha256(state.read_bytes()).hexdigest()
    edit_json(state, **values)
    kept = {k: v for k, v in json.loads(state.read_text()).items() if v is not None or k == "base"}
    state.write_text(json.dumps(kept))
    done.write_text(done.read_text().replace(before, hashlib.sha256(state.read_bytes()).hexdigest()))
