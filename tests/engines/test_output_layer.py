"""The output layer on a CPU, by pieces of the vocabulary, against float64."""

import pytest
import torch

from es_ray.engines.hf import output_layer
from es_ray.engines.hf.output_layer import OutputLayer, prepare_output_layer
from tests.plain_peft import base_model
from tests.small_models import small_model

AVX2 = {"architecture": "x86_64", "avx2": True}
NATIVE = {"architecture": "x86_64", "avx512_bf16": True}


@pytest.mark.parametrize("words", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float32, 2.0**-20), (torch.bfloat16, 2.0**-8)])
@torch.inference_mode()
def test_logits_of_a_slice_are_rounded_once(words, bias, dtype, unit, monkeypatch):
    monkeypatch.setattr(output_layer, "_PIECE", 64 * 24)
    torch.manual_seed(words)
    base = torch.nn.Linear(24, words, bias=bias, dtype=dtype)
    x = torch.randn(5, 7, 24).to(dtype)[:, -1:]
    found = OutputLayer(base)(x)
    assert found.dtype == dtype and found.shape == (5, 1, words)
    wanted = x.double() @ base.weight.double().T + (base.bias.double() if bias else 0)
    sizes = x.double().abs() @ base.weight.double().abs().T + 1
    assert ((found.double() - wanted).abs() <= unit * wanted.abs() + 2.0**-20 * sizes).all()


@pytest.mark.parametrize(
    ("dtype", "capabilities", "replaced"),
    [(torch.float32, NATIVE, True), (torch.bfloat16, NATIVE, False), (torch.bfloat16, AVX2, True)],
)
@torch.inference_mode()
def test_a_models_logits_stay_those_of_its_own_layer(dtype, capabilities, replaced, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    folder = small_model(tmp_path / "model", dtype=dtype)
    plain, model = base_model(folder), base_model(folder)
    weight = model.get_output_embeddings().weight
    prepare_output_layer(model)
    head = model.get_output_embeddings()
    assert isinstance(head, OutputLayer) == replaced
    assert (head.base if replaced else head).weight is weight  # none is held twice
    read = []
    inner = head.base if replaced else head
    inner.register_forward_pre_hook(lambda _, args: read.append(args[0].is_contiguous()))
    ids = torch.arange(100, 112).view(2, 6)
    ours, theirs = (m(input_ids=ids, logits_to_keep=1).logits for m in (model, plain))
    assert all(read), "a slice of all tokens would be copied for each row"
    assert torch.allclose(ours.float(), theirs.float(), atol=1e-5 if dtype == torch.float32 else 3e-2)
