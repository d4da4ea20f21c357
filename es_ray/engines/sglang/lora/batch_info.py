"""Which adapter slot each row of a batch belongs to, on the device, without blocking the host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NO_SLOT = -1
"""The slot of rows of the base model, and of unused ones."""

Ids = Sequence[str | None]
SlotOf = Mapping[str | None, int]


@dataclass
class Rows:
    """The adapter of each row of a batch.

    slots: int32, shape [rows] or longer, NO_SLOT for the base model; scales: float32, shape [slots],
    valid for every slot of a row; both on the device. The others are set and read by SGLang.
    """

    slots: Tensor
    scales: Tensor
    has_active_lora: bool = False
    is_prefill: bool = False


class LoraBatches:
    """Makes Rows for consecutive batches on one stream.

    Batches that replay a CUDA graph share one tensor, which the graph reads; it is written only when it
    changes, which during a population's decoding is when a row ends or begins. A slot keeps its scale until
    it gets another: prompts of some adapters run between the steps of others. slots: the most adapters.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self._device = device
        self._scales = torch.zeros(slots, dtype=torch.float32, device=device)
        self._scales_now: list[float] = [0.0] * slots
        self._static: Tensor | None = None
        self._static_now: list[int] = []
        self._asked: tuple[list[str | None], dict[str | None, int]] = ([], {})
        self._graph: tuple[tuple[list[str | None], dict[str | None, int]], Rows] | None = None

    def reserve(self, rows: int) -> None:
        """Allocate for the rows of the largest CUDA graph."""
        self._static = torch.full((rows,), NO_SLOT, dtype=torch.int32, device=self._device)
        self._static_now = []
        self._graph = None

    def repeated(self, ids: Ids, slot_of: SlotOf) -> Rows | None:
        """The rows of a batch that will replay a graph, if the graphs already have them.

        ids: the adapter of each request; slot_of: the slot of each adapter. None: call `rows`.
        """
        asked = (list(ids), dict(slot_of))
        if self._graph is not None and self._graph[0] == asked:
            return self._graph[1]
        self._asked = asked
        return None

    def rows(
        self,
        slots: Sequence[int],
        ranks: Sequence[int],
        scales: Sequence[float],
        lengths: Sequence[int] | None,
        graph: bool,
    ) -> Rows:
        """The rows of a batch.

        slots: of each request; ranks, scales: of each slot, rank 0 where this batch uses no adapter; lengths:
        rows of each request, one if None; graph: whether a CUDA graph reads them, whose unused rows get
        NO_SLOT, and which were passed to the last `repeated`.
        """
        now = [new if rank else old for rank, new, old in zip(ranks, scales, self._scales_now, strict=True)]
        if now != self._scales_now:
            self._copy(self._scales, torch.tensor(now, dtype=torch.float32))
            self._scales_now = now
        mine = [slot if ranks[slot] else NO_SLOT for slot in slots]
        if lengths is not None:
            mine = np.repeat(mine, lengths).tolist()
        if not graph:
            made = torch.empty(len(mine), dtype=torch.int32, device=self._device)
            self._copy(made, torch.tensor(mine, dtype=torch.int32))
            return Rows(made, self._scales)
        if self._static is None or len(mine) > len(self._static):
            raise RuntimeError(f"a CUDA graph of {len(mine)} rows was not reserved")
        if mine != self._static_now:
            padded = mine + [NO_SLOT] * (len(self._static) - len(mine))
            self._copy(self._static, torch.tensor(padded, dtype=torch.int32))
            self._static_now = mine
        made_for_graph = Rows(self._static, self._scales)
        self._graph = (self._asked, made_for_graph)
        return made_for_graph

    def _copy(self, target: Tensor, source: Tensor) -> None:
        # pinned, or the host would wait for all queued work of the device
        target.copy_(source.pin_memory() if target.is_cuda else source, non_blocking=True)
