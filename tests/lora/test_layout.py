import numpy as np
import pytest
import torch
import transformers

from es_ray.config import LoraConfig
from es_ray.errors import UserError
from es_ray.lora.layout import lora_layout
from tests.small_models import CONFIGS

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model(config: transformers.PretrainedConfig):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


def layout(architecture: str = "qwen2", **lora):
    return lora_layout(model(CONFIGS[architecture](num_hidden_layers=4)), LoraConfig(**lora))


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_every_linear_layer_of_the_stack_is_there_with_its_shape(architecture, rank):
    four_layers = model(CONFIGS[architecture](num_hidden_layers=4))
    made = lora_layout(four_layers, LoraConfig(rank=rank))
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in four_layers.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    assert {m.name: (m.in_features, m.out_features) for m in made.modules} == linears
    assert [m.layer for m in made.modules] == [layer for layer in range(4) for _ in SEVEN]
    assert made.size == sum(rank * (fan_in + fan_out) for fan_in, fan_out in linears.values())
    assert made.layers == [0, 1, 2, 3]


def test_the_scaling_is_alpha_over_rank():
    assert layout(rank=8, alpha=4).scaling == 0.5


def test_a_and_b_follow_each_other_row_by_row():
    made = layout(rank=2)
    theta = np.arange(made.size, dtype=np.float32)
    at = 0
    for module in made.modules:
        a, b = made.matrices(theta)[module.name]
        assert a.shape == (2, module.in_features)
        assert b.shape == (module.out_features, 2)
        wanted_a = np.arange(at, at + a.size).reshape(a.shape)
        at += a.size
        wanted_b = np.arange(at, at + b.size).reshape(b.shape)
        at += b.size
        assert np.array_equal(a, wanted_a)
        assert np.array_equal(b, wanted_b)
    assert at == made.size


def test_matrices_of_several_vectors_keep_their_leading_axis():
    made = layout(rank=2)
    vectors = np.random.default_rng(0).normal(size=(3, made.size)).astype(np.float32)
    for name, (a, b) in made.matrices(vectors).items():
        for row in range(3):
            alone_a, alone_b = made.matrices(vectors[row])[name]
            assert np.array_equal(a[row], alone_a)
            assert np.array_equal(b[row], alone_b)


@pytest.mark.parametrize(
    ("layers", "chosen"), [("all", [0, 1, 2, 3]), ("0-2", [0, 1, 2]), ("3,1", [1, 3]), ("2", [2])]
)
def test_layers_and_modules_can_be_chosen(layers, chosen):
    made = layout(layers=layers, target_modules=["down_proj", "q_proj"])
    assert [(m.layer, m.name.rsplit(".", 1)[1]) for m in made.modules] == [
        (layer, kind) for layer in chosen for kind in ("q_proj", "down_proj")
    ]


@pytest.mark.parametrize(("layers", "lacking"), [("0-9", "4"), ("7", "7"), ("0,2,11", "11")])
def test_layers_that_the_model_lacks_are_named_with_those_it_has(layers, lacking):
    with pytest.raises(UserError) as error:
        layout(layers=layers)
    for word in ("lora.layers", layers, f"layer {lacking}", "0-3"):
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["qproj", "lm_head", "embed_tokens", "mlp"])
def test_modules_that_the_model_lacks_are_named_with_those_it_has(name):
    with pytest.raises(UserError) as error:
        layout(target_modules=["q_proj", name])
    for word in ("lora.target_modules", name, *SEVEN):
        assert word in str(error.value)


def test_a_model_without_linear_projections_is_refused():
    gpt2 = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=768)  # Conv1D, not Linear
    with pytest.raises(UserError, match="no linear projections"):
        lora_layout(model(gpt2), LoraConfig())
