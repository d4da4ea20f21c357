"""Which adapter slot each row of a batch belongs to, on the device, without the host waiting for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NO_SLOT = -1
"""The slot of a row that belongs to the base model, or to nobody."""


@dataclass
class Rows:
    """Who each row of a batch belongs to.

    slots: int32, shape [rows] or longer, NO_SLOT for the base model; scales: float32, shape [slots]; both on
    the device. What SGLang notes beside them has_active_lora and is_prefill are for is not used here.
    """

    slots: Tensor
    scales: Tensor
    has_active_lora: bool = False
    is_prefill: bool = False


class RowSlots:
    """Makes Rows for one batch after another.

    Batches that replay a CUDA graph share one tensor, which the graph reads; it is written only where it
    changes, which during a population's decoding is when a row ends. slots: adapters that there are room for.
    """

    def __init__(self, slots: int, device: torch.device) -> None:
        self._device = device
        self._scales = torch.zeros(slots, dtype=torch.float32, device=device)
        self._scales_now: list[float] = [0.0] * slots
        self._static: Tensor | None = None
        self._static_now: list[int] | None = None

    def reserve(self, rows: int) -> None:
        """Make room for the rows of the largest CUDA graph."""
        self._static = torch.full((rows,), NO_SLOT, dtype=torch.int32, device=self._device)
        self._static_now = []

    def rows(
        self,
        slots: Sequence[int],
        ranks: Sequence[int],
        scales: Sequence[float],
        lengths: Sequence[int] | None,
        graph: bool,
    ) -> Rows:
        """The rows of a batch.

        slots: of each request; ranks, scales: of each slot, rank 0 where no adapter is in use; lengths: rows
        of each request, one if None; graph: whether a CUDA graph reads them, whose further rows get NO_SLOT.
        """
        scales = list(scales)
        if scales != self._scales_now:
            self._send(self._scales, torch.tensor(scales, dtype=torch.float32))
            self._scales_now = scales
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
        return Rows(self._static, self._scales)

    def _send(self, there: Tensor, here: Tensor) -> None:
        # pinned, or the host would wait for all that the device has still to do
        there.copy_(here.pin_memory() if there.is_cuda else here, non_blocking=True)
