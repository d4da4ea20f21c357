import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from es_ray.config import LoraConfig
from es_ray.lora.layout import lora_layout
from es_ray.lora.peft_files import AdapterWriter
from tests.small_models import CONFIGS, small_model

CASES = [
    {"rank": 1, "alpha": 2.0},
    {"rank": 8, "alpha": 4.0, "layers": "1-2"},
    {"rank": 3, "alpha": 1.5, "layers": "0,3", "target_modules": ["v_proj", "down_proj"]},
    {"rank": 2, "layers": "2", "target_modules": ["up_proj"]},
]


@pytest.fixture(scope="module", params=CONFIGS)
def base(request, tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"), request.param, num_hidden_layers=4)


def written(base: Path, folder: Path, lora: dict):
    """An adapter of random values: its layout and its flat vector."""
    layout = lora_layout(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**lora))
    theta = np.random.default_rng(8).normal(size=layout.size).astype(np.float32)
    AdapterWriter(layout, str(base)).write(theta, folder, "\n# A card\n")
    return layout, theta


@pytest.mark.parametrize("lora", CASES)
def test_plain_peft_loads_the_adapter_and_adds_scaled_b_a(base, tmp_path, lora):
    layout, theta = written(base, tmp_path / "adapter", lora)
    named = PeftConfig.from_pretrained(tmp_path / "adapter").base_model_name_or_path
    plain = dict(AutoModelForCausalLM.from_pretrained(named).named_parameters())
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(named), tmp_path / "adapter")
    merged = dict(model.merge_and_unload().named_parameters())
    deltas = {f"{name}.weight": lora["rank"] for name in layout.matrices(theta)}
    for name, (a, b) in layout.matrices(theta).items():
        scaling = lora.get("alpha", 2.0) / lora["rank"]
        wanted = plain[f"{name}.weight"].detach().numpy() + scaling * b.astype(np.float64) @ a
        assert np.allclose(merged[f"{name}.weight"].detach().numpy(), wanted, atol=1e-4)
    for name, weight in plain.items():
        if name not in deltas:
            assert torch.equal(weight, merged[name]), f"{name} was adapted, too"


@pytest.mark.parametrize("lora", CASES)
def test_the_files_are_safetensors_in_float32_json_and_a_card(base, tmp_path, lora):
    layout, theta = written(base, tmp_path / "adapter", lora)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}
    assert sum(tensor.size for tensor in tensors.values()) == layout.size
    names = {"A": "lora_A", "B": "lora_B"}
    read = [tensors[f"base_model.model.{t.module.name}.{names[t.matrix]}.weight"] for t in layout.tensors]
    assert np.array_equal(np.concatenate([tensor.ravel() for tensor in read]), theta)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"]) == (layout.rank, layout.alpha)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    assert "library_name: peft" in card
    assert card.endswith("# A card\n")


def test_the_same_vector_gives_the_same_bytes(base, tmp_path):
    for folder in ("one", "two"):
        written(base, tmp_path / folder, CASES[1])
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
