"""What a model has read of a batch of sequences: left-padded prompts, then tokens for every row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_ray.engines.hf.kv_cache import growing_cache


class Context:
    """A batch's key-value cache, attention mask and positions."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = growing_cache(model.config)
        self._mask: Tensor
        self._position: Tensor  # of each row's last token, shape [rows, 1]

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each prompt, shape [rows, vocabulary]."""
        ids, self._mask = (part.to(self._model.device) for part in _left_padded(prompts))
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._read(ids, positions, 1)[:, -1]

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits after each of the next tokens, shape [rows, tokens, vocabulary].

        tokens: shape [rows, tokens]; mask: 0 where a row has ended, 1 elsewhere, of the same shape.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        self._mask = torch.cat([self._mask, mask], dim=1)
        # a row that has ended stays at its position: models with learnt ones have no others
        return self._read(tokens, self._position + mask.cumsum(dim=1), tokens.shape[1])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows, by their present numbers."""
        kept = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self._position = self._mask[kept], self._position[kept]

    def _read(self, ids: Tensor, positions: Tensor, logits_to_keep: int) -> Tensor:
        self._position = positions[:, -1:]
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        ).logits
        return logits


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each of shape [rows, longest]."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
