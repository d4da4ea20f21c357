"""Greedy decoding of a left-padded batch: pure argmax, no penalties, only the stop ids of the model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from es_ray.engines.base import Completion
from es_ray.engines.hf.kv_cache import growing_cache


class NonFiniteLogits(Exception):  # noqa: N818 - a fact about a row, which the engine turns into an error
    """A row whose logits are not finite; `row` is its number."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: frozenset[int],
    max_new_tokens: int,
    keep_rows: Callable[[list[int]], None],
) -> list[Completion]:
    """Continue each prompt until a stop id or max_new_tokens.

    keep_rows: called with the numbers of the rows that go on, when half of the batch or more has finished.
    Raises NonFiniteLogits.
    """
    ids, mask = _left_padded(prompts, model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = growing_cache(model.config)
    tokens: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    alive = list(range(len(prompts)))
    for _ in range(max_new_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        best, chosen = _largest(logits)
        for row, value, token in zip(alive, best.isfinite().tolist(), chosen.tolist(), strict=True):
            if finished[row]:
                continue
            if not value:
                raise NonFiniteLogits(row)
            tokens[row].append(token)
            finished[row] = token in stop_ids
        running = [number for number, row in enumerate(alive) if not finished[row]]
        if not running:
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        if 2 * len(running) <= len(alive):
            kept = torch.tensor(running, device=ids.device)
            cache.batch_select_indices(kept)
            keep_rows(running)
            ids, positions, mask = ids[kept], positions[kept], mask[kept]
            alive = [alive[number] for number in running]
    return [Completion(t, "stop" if f else "length") for t, f in zip(tokens, finished, strict=True)]


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, not a number where there is one, and its first place."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.max(dim=-1)
    chosen = torch.from_numpy(logits.numpy().argmax(axis=-1))  # a tenth of torch's time on a CPU
    return logits.gather(1, chosen[:, None])[:, 0], chosen


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
