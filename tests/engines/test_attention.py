"""Attention of one token against PyTorch's."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from es_ray.engines.hf.attention import NAME, attends_by, one_token_attention, use_one_token_attention
from tests.small_models import small_model


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_answers_are_those_of_sdpa(heads, groups, turned, masked, scaling, tokens):
    rows, held, size = 5, 11, 8
    query = torch.randn(rows, tokens, heads, size).transpose(1, 2)
    key, value = (torch.randn(rows, groups, held + 9, size)[..., :held, :] for _ in range(2))
    if turned:
        key = key.transpose(2, 3).contiguous().transpose(2, 3)
    mask = torch.zeros(rows, 1, tokens, held)
    mask[1, ..., :4] = mask[3, ..., :9] = torch.finfo(torch.float32).min
    module = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=False)
    given = (module, query, key, value, mask if masked else None)
    ours, weights = one_token_attention(*given, scaling=scaling)
    wanted, _ = sdpa_attention_forward(*given, scaling=scaling)
    assert ours.shape == (rows, tokens, heads, size)
    assert torch.allclose(ours, wanted, atol=1e-6)
    assert weights is None


@pytest.mark.parametrize(
    ("dtype", "before", "after"),
    [(torch.float32, "sdpa", NAME), (torch.float32, "eager", "eager"), (torch.bfloat16, "sdpa", "sdpa")],
)
def test_only_float32_models_with_sdpa_attend_this_way(dtype, before, after, tmp_path):
    folder = small_model(tmp_path / "model", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=before)
    use_one_token_attention(model)
    assert attends_by(model.config, after)
