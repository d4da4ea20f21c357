"""Log-probabilities of tokens under a model's full softmax at temperature 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_ray.engines.hf.context import Context
from es_ray.engines.hf.population_linear import PopulationAdapters

_LOGITS_AT_ONCE = 1 << 26  # of all rows together: 256 MiB in float32


class NonFiniteLogits(Exception):  # noqa: N818 - a fact about a row, which the engine turns into an error
    """A row whose logits are not finite; `row` is its number."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def log_probs_of(tokens: Tensor, logits: Tensor) -> Tensor:
    """Float32, of the tokens' shape; logits: shape [..., vocabulary]."""
    return logits.float().log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]


def continuation_log_probs(
    model: Any,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    adapters: PopulationAdapters | None = None,
    *,
    logits_at_once: int = _LOGITS_AT_ONCE,
) -> list[NDArray[np.float32]]:
    """Log-probabilities of each row's given tokens, in one batch; one array per row, as long as its tokens.

    adapters: the rows', None for the model as it is. The prompts are read first, then the given tokens in
    chunks, as all their logits together may not fit into memory. Raises NonFiniteLogits.
    """
    tokens, mask = (part.to(model.device) for part in _right_padded(continuations))
    longest = tokens.shape[1]
    context = Context(model)
    logits = context.read_prompts(prompts, adapters)[:, None]
    found = [log_probs_of(tokens[:, :1], logits)] if longest else []
    step = max(1, logits_at_once // logits.numel())
    for low in range(0, longest - 1, step):
        high = min(low + step, longest - 1)
        logits = context.read(tokens[:, low:high], mask[:, low:high])
        found.append(log_probs_of(tokens[:, low + 1 : high + 1], logits))
    of_rows = torch.cat(found, dim=1).cpu().numpy() if found else np.empty(tokens.shape, np.float32)
    return [_finite(row, of_rows[row, : len(given)]) for row, given in enumerate(continuations)]


def _finite(row: int, log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(log_probs).all():
        raise NonFiniteLogits(row)
    return log_probs.copy()


def _right_padded(continuations: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each of shape [rows, longest]."""
    width = max(len(given) for given in continuations)
    tokens = torch.zeros(len(continuations), width, dtype=torch.long)
    mask = torch.zeros(len(continuations), width, dtype=torch.long)
    for row, given in enumerate(continuations):
        tokens[row, : len(given)] = torch.tensor(given, dtype=torch.long)
        mask[row, : len(given)] = 1
    return tokens, mask
