"""Attention of one new token per row, on a CPU, as two batched products over the key-value heads.

PyTorch's fused attention is made for long queries. With one token and a short context it takes up to twice
as long as this does on keys stored as [rows, heads, size, tokens], which is how `kv_cache` then stores them;
with hundreds of tokens in the cache both take equally long.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

NAME = "es_ray_one_token"

_UNSUPPORTED = ("position_bias", "softcap", "cache")  # arguments that go to PyTorch's attention


def use_one_token_attention(model: Any) -> None:
    """Switch a float32 model on a CPU to this attention; any other is left unchanged."""
    if model.device.type == "cpu" and model.dtype == torch.float32 and attends_by(model.config, "sdpa"):
        model.set_attn_implementation(NAME)


def attends_by(config: Any, name: str) -> bool:
    """Whether a model with this configuration uses the attention of that name."""
    return config._attn_implementation == name


def one_token_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function with the interface of transformers.

    query: [rows, heads, tokens, size]; key, value: [rows, key-value heads, tokens, size]; attention_mask:
    added to the scores, [rows, 1, tokens, tokens]. Returns [rows, tokens, heads, size], and no weights.
    """
    rows, heads, tokens, size = query.shape
    if tokens > 1 or attention_mask is None or any(options.get(name) is not None for name in _UNSUPPORTED):
        key = key.contiguous()
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    groups, cached = key.shape[1:3]
    mask = attention_mask.expand(rows, groups, 1, cached).reshape(rows * groups, 1, cached)
    scores = torch.baddbmm(
        mask,
        query.reshape(rows * groups, heads // groups, size),
        key.flatten(0, 1).transpose(1, 2),
        alpha=size**-0.5 if scaling is None else scaling,
    )
    answer = torch.bmm(scores.softmax(dim=-1), value.flatten(0, 1))
    return answer.view(rows, 1, heads, -1), None


AttentionInterface.register(NAME, one_token_attention)
AttentionMaskInterface.register(NAME, eager_mask)
