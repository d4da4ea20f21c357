"""A model's adapted weights under the updates of a merged centre (`es_ray.evolution.merged`).

W = W_0 + D is rounded once, from the file's weights and the float32 sum D of all changes. So updates far
smaller than half an ULP of a bfloat16 weight still add up, and the base model and the drift cost no reload.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from es_ray.evolution.merged import History, begins_with, updates
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.layout import LoraLayout
from es_ray.lora.merged_changes import add_update


class MergedWeights:
    """The weights of a model's adapted layers, at one history of updates or another.

    layers: the linear layers, in the layout's order, whose weights are written in place.
    """

    def __init__(self, layers: Sequence[Any], layout: LoraLayout) -> None:
        self._layers, self._layout = layers, layout
        self._base: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._history: History | None = None
        self._perturbation: Perturbation | None = None
        self._shows_base, self._stale = True, False
        self._checksum: int | None = None

    @torch.inference_mode()
    def show(self, history: History, perturbation: Perturbation) -> None:
        """Give the layers the weights after these updates; what they have of them already is not repeated."""
        if len(history) == 0:
            self._show_base()
            return
        self._move(history, perturbation)
        if not self._stale and not self._shows_base:
            return
        for layer, base, change in zip(self._layers, self._base, self._changes, strict=True):
            layer.weight.data.copy_(base + change)  # the sum in float32
        self._shows_base = self._stale = False
        self._checksum = None

    @torch.inference_mode()
    def drift(self, history: History, perturbation: Perturbation) -> float:
        """||D||_F / ||W_0||_F over all adapted matrices together."""
        if len(history) == 0:
            return 0.0
        self._move(history, perturbation)
        changes, bases = ([_square(each) for each in part] for part in (self._changes, self._base))
        return math.sqrt(math.fsum(changes) / math.fsum(bases))

    def checksum(self) -> int:
        """Of the bits that the layers have now: equal weights have equal ones."""
        if self._checksum is None:
            self._checksum = self._sum_of_bits()
        return self._checksum

    def _sum_of_bits(self) -> int:
        total = 0
        for number, layer in enumerate(self._layers, start=1):
            weight = layer.weight.data
            bits = weight.view(torch.int32 if weight.element_size() == 4 else torch.int16)
            total += number * int(bits.sum(dtype=torch.int64))
        return total % (1 << 61)

    def _show_base(self) -> None:
        if self._shows_base:
            return
        for layer, base in zip(self._layers, self._base, strict=True):
            layer.weight.data.copy_(base)
        self._shows_base, self._checksum = True, None

    def _move(self, history: History, perturbation: Perturbation) -> None:
        """Bring the changes to a history; the layers are stale then, until they are written."""
        known = self._history
        if known is None or perturbation != self._perturbation or not begins_with(history, known):
            self._begin()
            known = history[:0]
        elif len(known) == len(history):
            return
        for update in updates(history, len(known)):
            parts = iter(self._layout.tensors)
            for change, a, b in zip(self._changes, parts, parts, strict=True):  # A and B in turns
                add_update(change, update, perturbation, a, b, self._layout.scaling)
        self._history, self._perturbation, self._stale = history, perturbation, True

    def _begin(self) -> None:
        if not self._base:  # the first update: until then the layers are the base model's
            self._base = [layer.weight.data.clone() for layer in self._layers]
            self._changes = [torch.zeros_like(base, dtype=torch.float32) for base in self._base]
        for change in self._changes:
            change.zero_()


def _square(values: Tensor) -> float:
    return float(values.double().square().sum())
