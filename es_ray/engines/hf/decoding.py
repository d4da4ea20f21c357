"""Decoding of a batch: argmax, or seeded sampling; no penalties, only the model's stop ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_ray.engines.base import Completion, OnCompletion, Sampling
from es_ray.engines.hf.context import Context
from es_ray.engines.hf.log_probs import NonFiniteLogits, log_probs_of
from es_ray.engines.hf.population_linear import PopulationAdapters
from es_ray.engines.hf.sampling import Sampler


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stop_ids: frozenset[int],
    max_new_tokens: int,
    adapters: PopulationAdapters | None = None,
    *,
    samplings: Sequence[Sampling | None] = (),
    log_probs: bool = False,
    on_completion: OnCompletion | None = None,
) -> list[Completion]:
    """Continue each prompt until a stop id or max_new_tokens.

    adapters: the rows', None for the model as it is; samplings: of each row, None for argmax. Rows that have
    finished are dropped once they are half of the batch. Raises NonFiniteLogits.
    """
    completions = _Completions(len(prompts), stop_ids, max_new_tokens, on_completion)
    sampler = Sampler(samplings, max_new_tokens, model.device) if any(samplings) else None
    alive = list(range(len(prompts)))
    context = Context(model)
    logits = context.read_prompts(prompts, adapters)
    for position in range(max_new_tokens):
        best, chosen = _largest(logits)
        if sampler is not None:
            sampler.draw(logits, position, chosen)
        scores = log_probs_of(chosen, logits).tolist() if log_probs else None
        completions.append(alive, best.isfinite().tolist(), chosen.tolist(), scores)
        running = [number for number, row in enumerate(alive) if completions.done[row] is None]
        if not running:
            break
        if 2 * len(running) <= len(alive):
            context.keep(running)
            if adapters is not None:
                adapters.keep(running)
            if sampler is not None:
                sampler.keep(running)
            chosen = chosen[torch.tensor(running, device=chosen.device)]
            alive = [alive[number] for number in running]
        logits = context.read(chosen[:, None])[:, -1]
    return [completion for completion in completions.done if completion is not None]


class _Completions:
    """The completions of a batch as they grow. done: the finished ones, by row."""

    def __init__(
        self, rows: int, stop_ids: frozenset[int], max_new_tokens: int, on_completion: OnCompletion | None
    ) -> None:
        self.done: list[Completion | None] = [None] * rows
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self._log_probs: list[list[float]] = [[] for _ in range(rows)]
        self._stop_ids, self._max_new_tokens = stop_ids, max_new_tokens
        self._on_completion = on_completion

    def append(
        self, rows: list[int], finite: list[bool], chosen: list[int], log_probs: list[float] | None
    ) -> None:
        """Add a token to each of these rows that has not ended."""
        for number, row in enumerate(rows):
            if self.done[row] is not None:
                continue
            if not finite[number]:
                raise NonFiniteLogits(row)
            self._tokens[row].append(chosen[number])
            if log_probs is not None:
                self._log_probs[row].append(log_probs[number])
            stopped = chosen[number] in self._stop_ids
            if stopped or len(self._tokens[row]) == self._max_new_tokens:
                self._end(row, stopped, log_probs is not None)

    def _end(self, row: int, stopped: bool, log_probs: bool) -> None:
        completion = Completion(
            self._tokens[row],
            "stop" if stopped else "length",
            np.array(self._log_probs[row], dtype=np.float32) if log_probs else None,
        )
        self.done[row] = completion
        if self._on_completion is not None:
            with torch.inference_mode(False):  # a task may use torch for itself
                self._on_completion(row, completion)


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, NaN if there is one, and its first index."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        return logits.max(dim=-1)
    chosen = torch.from_numpy(logits.numpy().argmax(axis=-1))  # ten times as fast as torch on a CPU
    return logits.gather(1, chosen[:, None])[:, 0], chosen
