"""Which adapter slot each row of a batch belongs to, on the device, without the host waiting for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NO_SLOT = -1
"""The slot of a row that belongs to the base model, or to nobody."""

Ids = Sequence[str | None]
SlotOf = Mapping[str | None, int]


@dataclass
class Rows:
    """Who each row of a batch belongs to.

    slots: int32, shape [rows] or longer, NO_SLOT for the base model; scales: float32, shape [slots], right
    for every slot that a row names; both on the device. The others are for SGLang, which sets them.
    """

    slots: Tensor
    scales: Tensor
    has_active_lora: bool = False
    is_prefill: bool = False


class LoraBatches:
    """Makes Rows for one batch after another, whose work follows on one stream.

    Batches that replay a CUDA graph share one tensor, which the graph reads; it is written only where it
    changes, which during a population's decoding is when a row ends or begins. A slot's scale stays as it is
    until another comes for it: prompts of some adapters run between the steps of others. slots: adapters
    that there is room for.
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
        """Make room for the rows of the largest CUDA graph."""
        self._static = torch.full((rows,), NO_SLOT, dtype=torch.int32, device=self._device)
        self._static_now = []
        self._graph = None

    def repeated(self, ids: Ids, slot_of: SlotOf) -> Rows | None:
        """The rows of a batch that is to replay a graph, if they are those that the graphs read already.

        ids: the adapter of each request; slot_of: the slot of each adapter. None: `rows` has to make them.
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
        rows of each request, one if None; graph: whether a CUDA graph reads them, whose further rows get
        NO_SLOT, and which are those of the last `repeated`.
        """
        now = [new if rank else old for rank, new, old in zip(ranks, scales, self._scales_now, strict=True)]
        if now != self._scales_now:
            self._send(self._scales, torch.tensor(now, dtype=torch.float32))
            self._scales_now = now
        mine = [slot if ranks[slot] else NO_SLOT for slot in slots]
        if lengths is not None:
            mine = np.repeat(mine, lengths).tolist()
        if not graph:
            made = torch.empty(len(mine), dtype=torch.int32, device=self._device)
            self._send(made, torch.tensor(mine, dtype=torch.int32))
            return Rows(made, self._scales)
        if self._static is None or len(mine) > len(self._static):
            raise RuntimeError(f"a CUDA graph of {len(mine)} rows was not announced")
        if mine != self._static_now:
            padded = mine + [NO_SLOT] * (len(self._static) - len(mine))
            self._send(self._static, torch.tensor(padded, dtype=torch.int32))
            self._static_now = mine
        made_for_graph = Rows(self._static, self._scales)
        self._graph = (self._asked, made_for_graph)
        return made_for_graph

    def _send(self, there: Tensor, here: Tensor) -> None:
        # pinned, or the host would wait for all that the device has still to do
        there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)
