"""Linear layers in which every row of the batch has its own LoRA adapter.

y_i = W x_i + scaling * B_i A_i x_i for row i. Layers with the same input (q, k and v; gate and up) share
one product with W, one with all their A's, and one with their B's as a block-diagonal matrix. Consecutive
rows with the same adapter share its products too.

On a CPU that multiplies in bfloat16 the adapters' products are bfloat16 ones as well, accumulated in float32:
converting the activations to float32 and back took longer than the layer itself. On one that does not, all
products are float32 ones, also those with W, rounded once to the layers' dtype (benchmarks/NOTES.md).
"""

from collections.abc import Sequence
from itertools import groupby
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from es_ray.engines.hf.joint_linear import JointLinear
from es_ray.errors import UserError

_FEW = 4  # up to this many A's, and for single rows, dot products beat batched products


class Projections:
    """Layers with the same input. The first one to be called computes for all of them.

    The products run in float32 and are rounded once to the layers' dtype, as in PEFT; where a CPU multiplies
    in bfloat16 A, B and A x are rounded to it as well, each by at most 2^-8 of what the adapter adds.
    """

    def __init__(self, names: list[str], layers: list[nn.Linear]) -> None:
        self.names = names
        self._base = JointLinear(layers)
        weights = [layer.weight for layer in layers]
        self._wide = self._base.emulated
        self._narrow = not self._wide and all(
            w.dtype == torch.bfloat16 and w.device.type == "cpu" for w in weights
        )
        self._adapters: tuple[Tensor, Tensor] | None = None  # of all adapters
        self._a: Tensor | None = None  # of the blocks of rows
        self._b: Tensor | None = None
        self._x: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def write(self, matrices: Sequence[tuple[Tensor, Tensor]], scaling: float) -> None:
        """Store each layer's A, shape [adapters, rank, in], and B, shape [adapters, out, rank]; float32."""
        a = torch.cat([a for a, _ in matrices], dim=1)
        b = a.new_zeros(len(a), a.shape[1], sum(self._base.widths))
        row = column = 0
        for _, expand in matrices:
            _, out, rank = expand.shape
            torch.mul(expand.transpose(1, 2), scaling, out=b[:, row : row + rank, column : column + out])
            row, column = row + rank, column + out
        self._adapters = (a.bfloat16(), b.bfloat16()) if self._narrow else (a, b)

    def assign(self, numbers: Sequence[int]) -> None:
        """Give each block of consecutive rows, all of the same length, the adapter of that number."""
        assert self._adapters is not None
        self._a, self._b = self._adapters
        if list(numbers) != list(range(len(self._a))):
            which = torch.tensor(numbers, device=self._a.device)
            self._a, self._b = self._a[which], self._b[which]

    def clear(self) -> None:
        """Forget the adapters and the last input."""
        self._adapters = self._a = self._b = self._x = None
        self._outputs = {}

    def output(self, index: int, x: Tensor) -> Tensor:
        """The output of one layer of the group, shape [..., out], possibly a view of a wider tensor."""
        if x is not self._x or index not in self._outputs:
            given = x.float() if self._wide else x
            y = self._base(given)
            if self._a is not None:
                y = self._adapted(given, y)
            y = y.to(x.dtype)
            if len(self.names) == 1:
                return y
            self._outputs = dict(enumerate(y.split_with_sizes(self._base.widths, dim=-1)))
            self._x = x
        output = self._outputs.pop(index)
        if not self._outputs:
            self._x = None
        return output

    def _adapted(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the adapters' products to y, in place where they have y's dtype."""
        a, b = self._a, self._b
        assert a is not None and b is not None
        blocks, ranks, _ = a.shape
        if self._narrow:
            low = torch.bmm(x.reshape(blocks, -1, x.shape[-1]), a.transpose(1, 2))
            y.view(blocks, -1, y.shape[-1]).baddbmm_(low, b)
            return y
        wide = x.reshape(blocks, -1, x.shape[-1]).float()
        if wide.shape[1] == 1 and ranks <= _FEW:
            low = torch.linalg.vecdot(wide, a)[:, None]
        else:
            low = torch.bmm(wide, a.transpose(1, 2))
        total = y.view(blocks, -1, y.shape[-1]).float()
        if ranks == 1:
            total.addcmul_(low, b)
        else:
            total.baddbmm_(low, b)
        return y if y.dtype == torch.float32 else total.to(y.dtype).view(y.shape)


class PopulationLinear(nn.Module):
    """A linear layer with an adapter for each row; its group computes the output."""

    def __init__(self, base: nn.Linear, group: Projections, index: int) -> None:
        super().__init__()
        self.base = base
        self._group, self._index = group, index

    def forward(self, x: Tensor) -> Tensor:
        """x, shape [rows, tokens, in], or [rows * tokens, in], to [..., out]."""
        return self._group.output(self._index, x)


class PopulationAdapters:
    """The adapters of a batch's rows in all adapted layers of a model."""

    def __init__(self, model: Any, names: Sequence[str], scaling: float) -> None:
        self._scaling = scaling
        self._groups: list[Projections] = []
        self.of_rows: list[int] = []
        """The number of each row's adapter."""
        for group_names in _sharing_input(model, names):
            layers = [model.get_submodule(name) for name in group_names]
            group = Projections(group_names, layers)
            self._groups.append(group)
            for index, (name, layer) in enumerate(zip(group_names, layers, strict=True)):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, PopulationLinear(layer, group, index))

    def write(self, matrices: dict[str, tuple[Tensor, Tensor]], adapter_of: Sequence[int]) -> None:
        """Give row i the adapter number adapter_of[i].

        matrices: A, shape [adapters, rank, in], and B, shape [adapters, out, rank], by layer; float32.
        """
        for group in self._groups:
            group.write([matrices[name] for name in group.names], self._scaling)
        self.assign(adapter_of)

    def assign(self, adapter_of: Sequence[int]) -> None:
        """Give row i of the next pass the adapter number adapter_of[i], of those that were written."""
        self.of_rows = list(adapter_of)
        length = gcd(*(len(list(rows)) for _, rows in groupby(self.of_rows)))
        for group in self._groups:
            group.assign(self.of_rows[::length])

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, by their current numbers."""
        self.assign([self.of_rows[row] for row in rows])

    def clear(self) -> None:
        """Make the model the base model again."""
        for group in self._groups:
            group.clear()


def _sharing_input(model: Any, names: Sequence[str]) -> list[list[str]]:
    """The names, grouped by identical input tensor in a forward pass of one token.

    Raises UserError for a layer that the pass does not reach: its adapter would silently have no effect.
    """
    seen: list[tuple[Tensor, list[str]]] = []

    def note(name: str, x: Tensor) -> None:
        for tensor, group in seen:
            if tensor is x:
                group.append(name)
                return
        seen.append((x, [name]))

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: note(name, args[0]))
        for name in names
    ]
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    reached = {name for _, group in seen for name in group}
    for name in names:
        if name not in reached:
            raise UserError(f"lora.target_modules: {name} has no part in a plain forward pass; leave it out")
    return [group for _, group in seen]
