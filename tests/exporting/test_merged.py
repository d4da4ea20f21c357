"""Merged models against plain transformers and PEFT, on small models in several files."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from es_ray.exporting.agreement import agreement
from es_ray.exporting.chosen import choose
from es_ray.runs.run_dir import RunDir
from tests.exporting.edited import edit_states
from tests.plain_peft import adapted_model, logits
from tests.short_runs import in_process
from tests.small_models import small_model

FOREIGN = {"credentials.json", "notes.txt", "trainer_state.json"}
"""What may lie beside a model, and is none of it."""
CASES = {
    "qwen2-tied-bf16-b": ("qwen2", torch.bfloat16, {}, "b", 4, 2.0),
    "llama-f32-both": ("llama", torch.float32, {}, "both", 4, 6.0),
    "qwen3-f16-both": ("qwen3", torch.float16, {"tie_word_embeddings": True}, "both", 1, 2.0),
}


@pytest.fixture(scope="module", params=CASES)
def evolved(request, tmp_path_factory) -> SimpleNamespace:
    """A run on a small model in several files: run, base, rank."""
    name, dtype, changes, form, rank, alpha = CASES[request.param]
    folder = tmp_path_factory.mktemp(name)
    base = small_model(folder / "base", name, dtype=dtype, num_hidden_layers=3, **changes)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="40KB")
    assert len(list(base.glob("model-*.safetensors"))) > 2
    (base / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    for name in FOREIGN:
        (base / name).write_text("{}")
    in_process(
        "run", "--local", "--model", base, "--generations", 2, "--population", 4, "--output", folder / "run",
        "--set", f"lora.form={form}", "--set", f"lora.rank={rank}", "--set", f"lora.alpha={alpha}",
        "--set", "evolution.noise.relative=0.1", "--set", "task.max_new_tokens=12",
        "--set", "evolution.shaping=centered-rank", "--set", "evaluation.kl_every=null",
    )  # fmt: skip
    return SimpleNamespace(run=folder / "run", base=base, dtype=dtype)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's files by name."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


def adapter_of(evolved: SimpleNamespace) -> Path:
    return evolved.run / "generations/0001/adapter"


def test_the_weights_are_those_of_pefts_merge_to_one_rounding(evolved, tmp_path, cli):
    ended = cli("export", evolved.run, "--output", tmp_path / "m", "--merged", "--last")
    assert ended.code == 0, ended.err
    before, after = stored(evolved.base), stored(tmp_path / "m")
    exact = adapted_model(adapter_of(evolved), torch.float64).merge_and_unload().state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 3 * 7
    assert all(name.endswith("_proj.weight") for name in changed)
    for name in before:
        assert after[name].dtype == evolved.dtype
        if name in changed:
            wanted = exact[name]
            ulp = torch.finfo(evolved.dtype).eps * wanted.abs().clamp(min=1e-3)
            assert ((after[name].double() - wanted).abs() <= 0.51 * ulp + 1e-6).all(), name


def test_everything_else_keeps_its_bytes(evolved, tmp_path, cli):
    assert cli("export", evolved.run, "--output", tmp_path / "m", "--merged", "--last").code == 0
    names = {file.name for file in evolved.base.iterdir()} - FOREIGN
    assert {file.name for file in (tmp_path / "m").iterdir()} == names
    for name in names - {"README.md"}:
        before, after = ((folder / name).read_bytes() for folder in (evolved.base, tmp_path / "m"))
        assert len(before) == len(after)
        if name.endswith(".safetensors"):
            header = 8 + int.from_bytes(before[:8], "little")
            assert before[:header] == after[:header]
        else:
            assert before == after


def test_transformers_loads_it_and_it_answers_as_the_adapter(evolved, tmp_path, cli):
    ended = cli("export", evolved.run, "--output", tmp_path / "m", "--merged", "--last", "--json")
    check = json.loads(ended.out)["check"]
    assert check["tokens"] - 2 <= check["same"] > 20  # a random model's logits have near ties
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "m")("What is the capital of France?")["input_ids"]
    wanted = logits(adapted_model(adapter_of(evolved), torch.float32), ids)
    base = logits(AutoModelForCausalLM.from_pretrained(evolved.base, dtype=torch.float32).eval(), ids)
    distance = (logits(merged, ids) - wanted).square().mean().sqrt()
    effect = (base - wanted).square().mean().sqrt()
    assert distance < (0.001 if evolved.dtype == torch.float32 else 0.1) * effect
    assert check["distance"] < check["allowed"] < 0.5 * check["effect"]


@pytest.mark.parametrize("share", [0.0, 0.5, -1.0, 2.0])
def test_the_check_finds_a_merge_of_another_size(evolved, tmp_path, cli, share):
    assert cli("export", evolved.run, "--output", tmp_path / "m", "--merged", "--last").code == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    base = stored(evolved.base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in base:
                parameter.copy_(base[name].float() + share * (parameter - base[name].float()))
    shutil.copytree(evolved.base, tmp_path / "wrong")
    for file in (tmp_path / "wrong").glob("*.safetensors*"):
        file.unlink()
    model.to(evolved.dtype).save_pretrained(tmp_path / "wrong")
    chosen = choose(RunDir(evolved.run), last=True)
    dtype = str(evolved.dtype).removeprefix("torch.")
    assert agreement(chosen, adapter_of(evolved), tmp_path / "m", dtype).alike
    assert not agreement(chosen, adapter_of(evolved), tmp_path / "wrong", dtype).alike


def test_a_failed_check_ends_with_1_and_leaves_no_folder(evolved, tmp_path, cli, monkeypatch):
    from es_ray.exporting import export

    whole = export.write_merged

    def half(files, out, changes):
        halves = {name: each._replace(scaling=each.scaling / 2) for name, each in changes.items()}
        return whole(files, out, halves)

    monkeypatch.setattr(export, "write_merged", half)
    ended = cli("export", evolved.run, "--output", tmp_path / "m", "--merged", "--last")
    assert ended.code == 1
    assert "does not answer as the adapter does" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path, cli):
    base = small_model(tmp_path / "base", "llama")
    run = tmp_path / "run"
    in_process(
        "run", "--local", "--model", base, "--generations", 1, "--population", 4, "--output", run,
        "--set", "task.max_new_tokens=4",
    )  # fmt: skip
    weights = (base / "model.safetensors").read_bytes()

    def refused() -> str:
        ended = cli("export", run, "--output", tmp_path / "m", "--merged", "--last")
        assert ended.code == 2
        assert not (tmp_path / "m").exists()
        assert not list(tmp_path.glob(".m*"))
        assert len(ended.err.splitlines()) == 1
        return ended.err

    (base / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused()
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    assert "model-00001-of-00002.safetensors" in refused()
    (base / "model.safetensors.index.json").unlink()
    for dtype, words in (("F8_E4M3", "of dtype F8_E4M3"), (None, "have no")):
        (base / "model.safetensors").write_bytes(renamed(weights, dtype))
        edit_states(run, weights={})
        assert words in refused()


def renamed(weights: bytes, dtype: str | None) -> bytes:
    """The file with another dtype of its projections, or (None) with other names for them."""
    size = int.from_bytes(weights[:8], "little")
    header = weights[8 : 8 + size].decode()
    header = header.replace("q_proj.weight", "q_proj.weighs") if dtype is None else header
    entries = json.loads(header)
    for name, entry in entries.items():
        if dtype is not None and "q_proj" in name:
            entry["dtype"] = dtype
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + weights[8 + size :]


def test_merging_needs_memory_for_one_matrix_not_for_the_files(tmp_path):
    """By Python's own allocator, which gives the bytes that are read: torch's are those of one matrix."""
    import tracemalloc

    from es_ray.exporting.changes import WeightChange
    from es_ray.exporting.weights import write_merged

    base = small_model(
        tmp_path / "base", "llama", num_hidden_layers=8, hidden_size=128, intermediate_size=256
    )
    file, name = base / "model.safetensors", "model.layers.7.mlp.up_proj"
    (tmp_path / "out").mkdir()
    change = WeightChange((256, 128), lambda: torch.ones(256, 128), 0.5)
    tracemalloc.start()
    write_merged([file], tmp_path / "out", {name: change})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.stat().st_size > 4_000_000
    assert peak < 1_000_000
    before, after = stored(base), stored(tmp_path / "out")
    assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"] + 0.5)
