"""A model's adapted weights under the updates of form `merged`, on the device where they are.

W = W_0 + D is rounded once, from the file's weights and the float32 sum D of all changes. So updates far
smaller than half an ULP of a bfloat16 weight still add up, and the base model and the drift cost no reload.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from es_ray.evolution.merged import Update
from es_ray.evolution.perturbation import Perturbation
from es_ray.lora.checkpoints import Checkpoint
from es_ray.lora.layout import LoraTensor
from es_ray.lora.merged_changes import add_products, numpy_factors


class AdaptedWeight(NamedTuple):
    """An adapted matrix, as much of it as this process has.

    weight: what the model reads and updates are written to, shape [out, in] here; a, b: its factors in the
    flat vector; columns, rows: which of A's columns and of B's rows are here, int64; None: all.
    """

    weight: Tensor
    a: LoraTensor
    b: LoraTensor
    columns: Tensor | None = None
    rows: Tensor | None = None


class Matrix(NamedTuple):
    """An adapted matrix as updates see it. Its tensors stay where they are for good.

    base: W_0, as much of it as `part` is; change: D, float32.
    """

    part: AdaptedWeight
    base: Tensor
    change: Tensor


class Updates(Protocol):
    """How an update is added to a model's matrices, the same ones at every call."""

    def add(
        self,
        matrices: Sequence[Matrix],
        scaling: float,
        update: Update,
        perturbation: Perturbation,
        serve: bool,
    ) -> None:
        """Add an update to each D; serve: then make each W its W_0 + D. scaling: of B A."""


class TorchUpdates:
    """With the noise of `es_ray.evolution`, by products of torch."""

    def add(
        self,
        matrices: Sequence[Matrix],
        scaling: float,
        update: Update,
        perturbation: Perturbation,
        serve: bool,
    ) -> None:
        """See Updates."""
        for part, base, change in matrices:
            a, weights = numpy_factors(update, perturbation, part.a)
            b, _ = numpy_factors(update, perturbation, part.b)
            if part.columns is not None:
                a = a[:, :, part.columns.cpu()]
            if part.rows is not None:
                b = b[:, part.rows.cpu()]
            device = change.device
            add_products(change, a.to(device), b.to(device), (scaling * weights).to(device), update.kept)
            if serve:
                torch.add(base, change, out=part.weight)  # in float32, and no temporary


class MergedWeights:
    """W_0 and D of each adapted matrix, and the served weights, which are made of them.

    Takes memory for W_0, in the model's dtype, and for D, in float32, when it is first needed or `reserve`
    is called. scaling: of B A, 1 / sqrt(rank).
    """

    def __init__(
        self, weights: Sequence[AdaptedWeight], scaling: float, updates: Updates | None = None
    ) -> None:
        self._weights, self._scaling, self._updates = weights, scaling, updates or TorchUpdates()
        self._matrices: list[Matrix] = []
        self._base_squares: NDArray[np.float64] | None = None

    @torch.inference_mode()
    def reserve(self) -> None:
        """Keep the weights that the model has now as W_0. Once."""
        bases = [part.weight.detach().clone() for part in self._weights]
        self._matrices = [
            Matrix(part, base, torch.zeros_like(base, dtype=torch.float32))
            for part, base in zip(self._weights, bases, strict=True)
        ]

    @torch.inference_mode()
    def begin(self) -> None:
        """Set D to 0."""
        if not self._matrices:
            self.reserve()
        for matrix in self._matrices:
            matrix.change.zero_()

    @torch.inference_mode()
    def load(self, checkpoint: Checkpoint) -> None:
        """Set D to a checkpoint's, as much of it as is here; raises DamagedChanges, with D half done."""
        if not self._matrices:
            self.reserve()
        for number, (part, _, change) in enumerate(self._matrices):
            whole = torch.from_numpy(checkpoint.matrix(number))
            if part.rows is not None:
                whole = whole[part.rows.cpu()]
            if part.columns is not None:
                whole = whole[:, part.columns.cpu()]
            change.copy_(whole)

    def change(self, number: int) -> Tensor:
        """D of a matrix, as much of it as is here, float32, on its device; not to be changed."""
        return self._matrices[number].change

    def whole_change(self, number: int) -> NDArray[np.float32]:
        """D of a matrix all of which is here, shape [out, in]."""
        return self._matrices[number].change.to("cpu", copy=True).numpy()

    def place(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which rows and which columns of a whole matrix are here."""
        part = self._weights[number]
        rows, columns = (
            np.arange(size) if some is None else some.cpu().numpy()
            for size, some in ((part.b.shape[0], part.rows), (part.a.shape[1], part.columns))
        )
        return rows, columns

    @torch.inference_mode()
    def add(self, updates: Sequence[Update], perturbation: Perturbation, serve: bool) -> None:
        """Add updates to D, in order; serve: then serve W_0 + D."""
        for number, update in enumerate(updates, start=1):
            last = serve and number == len(updates)
            self._updates.add(self._matrices, self._scaling, update, perturbation, last)

    @torch.inference_mode()
    def write(self, base: bool) -> None:
        """Serve W_0, or W_0 + D rounded to the model's dtype."""
        for part, original, change in self._matrices:
            if base:
                part.weight.copy_(original)
            else:
                torch.add(original, change, out=part.weight)

    @torch.inference_mode()
    def squares(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """||D||_F^2 and ||W_0||_F^2 of each matrix, as far as it is here: two of shape [matrices]."""
        if self._base_squares is None:
            self._base_squares = _squares([matrix.base for matrix in self._matrices])
        return _squares([matrix.change for matrix in self._matrices]), self._base_squares

    def entries(self) -> NDArray[np.int64]:
        """How many entries of each matrix are here, shape [matrices]."""
        return np.array([part.weight.numel() for part in self._weights], dtype=np.int64)

    @torch.inference_mode()
    def checksum(self) -> int:
        """Of the served weights' bits: equal weights have equal ones; below 2**61."""
        found = torch.stack([_sum_of_bits(part.weight) for part in self._weights]).tolist()
        return int(sum(number * value for number, value in enumerate(found, start=1)) % (1 << 61))


def _sum_of_bits(weight: Tensor) -> Tensor:
    """The sum of a matrix's words of 64 bits where it has such: a GPU takes ten times as long for 16 bits."""
    long_words = weight.is_contiguous() and weight.shape[-1] * weight.element_size() % 8 == 0
    words = torch.int32 if weight.element_size() == 4 else torch.int16
    if long_words and weight.data_ptr() % 8 == 0:
        words = torch.int64
    return weight.view(words).sum(dtype=torch.int64)


def _squares(matrices: Sequence[Tensor]) -> NDArray[np.float64]:
    """||M||_F^2 of each: of a row in its own precision, at least float32, then in float64."""
    sums = []
    for matrix in matrices:
        precise = None if matrix.dtype == torch.float32 else torch.float32
        rows = torch.linalg.vector_norm(matrix, dim=1, dtype=precise)
        sums.append(rows.double().square().sum())
    return torch.stack(sums).cpu().numpy()
