"""What a model has read of a batch of sequences: left-padded prompts, then more tokens of every row."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_ray.engines.hf.kv_cache import can_repeat, growing_cache
from es_ray.engines.hf.population_linear import PopulationAdapters

_WORTH = 0.25
"""Of all prompt tokens, how many a shared beginning must save: it costs a pass of its own."""


class Context:
    """A batch's key-value cache, attention mask and positions."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache = growing_cache(model.config)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"  # its name before 5.24
        self._mask: Tensor
        self._position: Tensor  # of each row's last token, shape [rows, 1]

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], adapters: PopulationAdapters | None = None
    ) -> Tensor:
        """Logits after each prompt, shape [rows, vocabulary].

        adapters: the rows'. What all prompts begin with (a system prompt, say) is then read once for each
        adapter, not for each row, where that saves enough.
        """
        shared = 0 if adapters is None or not can_repeat(self._cache) else _shared(prompts, adapters.of_rows)
        if adapters is not None and shared:
            self._read_beginning(prompts[0][:shared], adapters)
            rest, mask = (part.to(self._model.device) for part in _left_padded([p[shared:] for p in prompts]))
            return self.read(rest, mask, 1)[:, -1]
        ids, self._mask = (part.to(self._model.device) for part in _left_padded(prompts))
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._read(ids, positions, 1)[:, -1]

    def read(self, tokens: Tensor, mask: Tensor | None = None, logits_to_keep: int = 0) -> Tensor:
        """Logits after each of the next tokens, or after the last logits_to_keep, [rows, tokens, vocabulary].

        tokens: shape [rows, tokens]; mask: 0 where a row has ended or not begun, 1 elsewhere, same shape.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        self._mask = torch.cat([self._mask, mask], dim=1)
        keep = logits_to_keep or tokens.shape[1]
        # a row that has ended stays at its position: models with learned positions have no more of them
        return self._read(tokens, self._position + mask.cumsum(dim=1), keep)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows, by their current numbers; one may be taken several times."""
        kept = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask, self._position = self._mask[kept], self._position[kept]

    def _read_beginning(self, beginning: Sequence[int], adapters: PopulationAdapters) -> None:
        """Read it once for each adapter, then give it to each row."""
        of_rows = adapters.of_rows
        numbers = list(dict.fromkeys(of_rows))
        ids = torch.tensor(beginning, device=self._model.device).expand(len(numbers), -1)
        adapters.assign(numbers)
        self._mask = torch.ones_like(ids)
        self._read(ids, self._mask.cumsum(dim=1) - 1, 1)
        place = {number: index for index, number in enumerate(numbers)}
        self.keep([place[number] for number in of_rows])
        adapters.assign(of_rows)

    def _read(self, ids: Tensor, positions: Tensor, logits_to_keep: int) -> Tensor:
        self._position = positions[:, -1:]
        logits: Tensor = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=logits_to_keep,
            **{self._cache_name: self._cache},
        ).logits
        return logits


def _shared(prompts: Sequence[Sequence[int]], of_rows: Sequence[int]) -> int:
    """How many first tokens to read once for each adapter; of_rows: each row's adapter. 0: not worth it."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))  # what these two share, all share
    most = min(len(prompt) for prompt in prompts) - 1  # at least a token is left to each row
    same = next((n for n in range(most) if first[n] != last[n]), most)
    saved = same * (len(of_rows) - len(set(of_rows)))
    return same if saved >= _WORTH * sum(len(prompt) for prompt in prompts) else 0


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each of shape [rows, longest]."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids, mask
