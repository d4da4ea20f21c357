"""The layer that gives a logit to each word of the vocabulary, on a CPU: for all rows at once."""

from typing import Any, Final

import torch
from torch import Tensor, nn

from es_ray.engines.hf.cpu_dtype import multiplies_in

_PIECE: Final = 1 << 19
"""Weights that are multiplied at once, 2 MiB in float32: all of 49,152 x 576 took 1.3 times as long."""


class OutputLayer(nn.Module):
    """A linear layer of a large vocabulary, in float32.

    Each output is the same sum as that of the whole product. The input may be a slice of all tokens: torch
    would multiply it by a batch of the weights, once for each row, which took eight times as long.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self._words = max(1, _PIECE // base.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x, shape [..., in], to [..., words]; in x's dtype, rounded once."""
        weight, bias = self.base.weight, self.base.bias
        rows = x.reshape(-1, x.shape[-1]).float()
        logits = rows.new_empty(len(rows), len(weight), dtype=x.dtype)
        for low in range(0, len(weight), self._words):
            part = slice(low, low + self._words)
            added = None if bias is None else bias[part].float()
            logits[:, part] = nn.functional.linear(rows, weight[part].float(), added)
        return logits.view(*x.shape[:-1], len(weight))


def prepare_output_layer(model: Any) -> None:
    """Replace a model's output layer on a CPU; one of another kind (quantised, adapted) stays."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or model.device.type != "cpu":
        return
    if head.weight.dtype == torch.float32 or not multiplies_in(head.weight.dtype):
        model.set_output_embeddings(OutputLayer(head))
    else:  # a slice of all tokens would be multiplied by a batch of the weights, copied for each row
        head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
