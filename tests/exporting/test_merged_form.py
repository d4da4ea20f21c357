"""Exports of a run of form merged: the whole model, any member of it, and the nearest adapter."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from es_ray.engines.base import CENTRE, Variant
from es_ray.exporting.changes import weight_changes
from es_ray.exporting.chosen import choose
from es_ray.lora.changes_file import write_changes
from es_ray.lora.checkpoints import CHANGES, Checkpoint
from es_ray.runs.run_dir import RunDir
from tests import plain_peft
from tests.merged_reference import Reference
from tests.short_runs import in_process, json_lines, tensors
from tests.small_models import small_model

GENERATIONS = 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module", params=DTYPES)
def run(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    base = small_model(folder / "base", "llama", dtype=DTYPES[request.param])
    in_process(
        "run", "--local", "--model", base, "--generations", GENERATIONS, "--population", 6,
        "--output", folder / "run", "--set", "lora.form=merged", "--set", "lora.rank=2",
        "--set", "evolution.noise.relative=0.1", "--set", "evolution.learning_rate=2",
        "--set", "task.max_new_tokens=8", "--set", "evolution.shaping=centered-rank",
        "--set", "evaluation.kl_every=null", "--set", f"model.dtype={request.param}",
        "--set", "output.checkpoint_every=2",
    )  # fmt: skip
    return folder / "run"


def reference(run: Path, generations: int) -> Reference:
    found = Reference(RunDir.open(run).config())
    for generation in range(generations):
        members = json_lines(run / f"generations/{generation:04d}/population.jsonl")
        found.update(generation, np.array([member["advantage"] for member in members]))
    return found


@pytest.mark.parametrize(
    ("arguments", "generations", "variant"),
    [
        (("--last",), 3, Variant(CENTRE)),
        (("--generation", 1), 2, Variant(CENTRE)),
        (("--generation", 2, "--index", 3), 2, Variant(3, 2)),
    ],
)
def test_the_whole_model_has_the_references_weights(run, arguments, generations, variant, tmp_path, cli):
    ended = cli("export", run, *arguments, "--merged", "--output", tmp_path / "m")
    assert ended.code == 0, ended.err
    assert "greedy tokens" in ended.out
    model = plain_peft.base_model(tmp_path / "m")
    base = plain_peft.base_model(json.loads(json.dumps(RunDir.open(run).config().model.path)))
    wanted = reference(run, generations).member(variant)
    assert model.dtype == base.dtype
    theirs = base.state_dict()
    for name, weight in model.state_dict().items():
        if name in wanted:
            exact = torch.from_numpy(wanted[name])
            ulp = torch.finfo(weight.dtype).eps * exact.abs().clamp(min=1e-3)
            assert ((weight.double() - exact).abs() <= 0.51 * ulp + 1e-6).all()
            assert not torch.equal(weight, theirs[name])
        else:
            assert torch.equal(weight, theirs[name])
    card = (tmp_path / "m/README.md").read_text()
    assert "arXiv 2511.16652" in card and "changes of rank 2" in card and "PEFT adapter" not in card


def test_a_checkpoint_is_where_the_updates_are_added_from(run, tmp_path):
    """To the same bits, of a centre and of a member; a damaged one is named, and not used."""
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    checkpoint = copied / "generations/0002" / CHANGES
    whole, layout = checkpoint.read_bytes(), choose(RunDir.open(copied)).past.experiment.layout

    def changes(**chosen) -> list[np.ndarray]:
        found = weight_changes(choose(RunDir.open(copied), **chosen))
        return [change.product().numpy() for change in found.values()]

    first = Checkpoint(checkpoint, layout)
    for chosen in ({"last": True}, {"generation": 1}, {"generation": 2, "index": 1}):
        checkpoint.write_bytes(whole)
        found = changes(**chosen)
        checkpoint.unlink()
        replayed = changes(**chosen)
        checkpoint.write_bytes(whole[:-1])
        assert all(map(np.array_equal, found, replayed)) and all(
            map(np.array_equal, changes(**chosen), found)
        )
        checkpoint.unlink()
        zeros = (np.zeros((m.out_features, m.in_features), np.float32) for m in layout.modules)
        write_changes(checkpoint, layout, zeros, first.metadata)
        assert not any(map(np.array_equal, changes(**chosen), found))


def test_the_nearest_adapter_is_that_of_an_exact_decomposition(run, tmp_path, cli):
    ended = cli("export", run, "--last", "--rank", 3, "--output", tmp_path / "a", "--json")
    assert ended.code == 0, ended.err
    found = reference(run, GENERATIONS)
    base = found.member(Variant(-2))
    ours = tensors(tmp_path / "a")
    kept = whole = 0.0
    for name, weight in found.weights().items():
        u, s, v = np.linalg.svd(weight - base[name])
        wanted = (u[:, :3] * s[:3]) @ v[:3]
        part = f"base_model.model.{name.removesuffix('.weight')}"
        product = ours[f"{part}.lora_B.weight"] @ ours[f"{part}.lora_A.weight"]
        assert np.linalg.norm(product - wanted) <= 1e-3 * np.linalg.norm(wanted)
        kept, whole = kept + float(np.square(s[:3]).sum()), whole + float(np.square(s).sum())
    assert 0.3 < json.loads(ended.out)["share"] < 1
    assert json.loads(ended.out)["share"] == pytest.approx(np.sqrt(kept / whole), rel=1e-4)
    model = plain_peft.adapted_model(tmp_path / "a")  # plain PEFT loads it
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 1 and config["r"] == 3
    assert model.peft_config["default"].r == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "a run of lora.form merged has no adapter"),
        (("--merged", "--rank", 2), "one of the two is needed"),
        (("--rank", 0), "--rank 0: must be 1 to"),
        (("--rank", 900), "--rank 900: must be 1 to"),
    ],
)
def test_what_such_a_run_does_not_have_is_refused(run, arguments, words, tmp_path, cli):
    ended = cli("export", run, *arguments, "--output", tmp_path / "x")
    assert ended.code == 2 and words in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_member_names_the_command_that_writes_a_whole_model(run, tmp_path, cli):
    ended = cli("member", run, "--generation", 1, "--index", 2, "--output", tmp_path / "x")
    assert ended.code == 2 and "es-ray export --generation 1 --index 2 --merged" in ended.err
    assert not (tmp_path / "x").exists()
