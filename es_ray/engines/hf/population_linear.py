"""Linear layers in which every row of the batch has a LoRA adapter of its own.

y_i = W x_i + scaling * B_i A_i x_i for row i, as batched products. Layers that are given the same input (q, k
and v; gate and up) share one product with all their A's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from es_ray.errors import UserError

_FEW = 4  # up to this rank, dot products and scaled adds beat batched products


def by_row(x: Tensor, rows: int) -> Tensor:
    """[rows, tokens, features], also from a model that hands on [rows * tokens, features]."""
    return x if x.dim() == 3 else x.view(rows, -1, x.shape[-1])


class SharedShrink:
    """A_i x_i of all layers that receive the same input, computed when the first of them is called."""

    def __init__(self) -> None:
        self._members: list[PopulationLinear] = []
        self._a: Tensor | None = None
        self._x: Tensor | None = None
        self._low: list[Tensor] = []

    def join(self, member: "PopulationLinear") -> int:
        """Take a layer in; returns its place."""
        self._members.append(member)
        return len(self._members) - 1

    def place(self, matrices: Sequence[Tensor]) -> None:
        """Give each row its A's: one tensor for each layer, shape [rows, rank, in], float32."""
        self._a = torch.cat(list(matrices), dim=1)
        self._x = None

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows, by their present numbers."""
        assert self._a is not None
        self._a, self._x = self._a[rows], None

    def clear(self) -> None:
        """Forget the adapters and the last input."""
        self._a = self._x = None
        self._low = []

    def __call__(self, x: Tensor, place: int) -> Tensor:
        """The product of one layer, [rows, tokens, rank]."""
        if x is not self._x:
            assert self._a is not None
            wide = by_row(x, len(self._a)).float()
            if wide.shape[1] == 1 and self._a.shape[1] <= _FEW:  # one token, few A's: dot products
                low = torch.linalg.vecdot(wide, self._a)[:, None]
            else:
                low = torch.bmm(wide, self._a.transpose(1, 2))
            self._low = [low] if len(self._members) == 1 else list(low.chunk(len(self._members), dim=-1))
            self._x = x
        return self._low[place]


class PopulationLinear(nn.Module):
    """A linear layer with an adapter for each row.

    The products run in float32 and are rounded once to the layer's dtype, as PEFT does it.
    """

    def __init__(self, base: nn.Linear, shrink: SharedShrink) -> None:
        super().__init__()
        self.base = base
        self._shrink = shrink
        self._place = shrink.join(self)
        self._expand: Tensor | None = None
        # a plain linear layer is called as a function: calling a module costs as much as its smaller products
        self._call_base = type(base) is not nn.Linear
        self._weight, self._bias = base.weight, base.bias

    def place(self, expand: Tensor) -> None:
        """Give each row its scaled B, shape [rows, rank, out], float32."""
        self._expand = expand

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows, by their present numbers."""
        assert self._expand is not None
        self._expand = self._expand[rows]

    def clear(self) -> None:
        """The layer is the base layer again."""
        self._expand = None

    def forward(self, x: Tensor) -> Tensor:
        """x, shape [rows, tokens, in], to [rows, tokens, out]."""
        y = self.base(x) if self._call_base else nn.functional.linear(x, self._weight, self._bias)
        expand = self._expand
        if expand is None:
            return y
        low = self._shrink(x, self._place)
        total = y
        if y.dtype != torch.float32 or y.dim() != 3:
            total = by_row(y, len(low)).float()
        rank = low.shape[-1]
        if rank == 1:
            total.addcmul_(low, expand)
        elif rank <= _FEW:
            for r in range(rank):
                total.addcmul_(low[..., r : r + 1], expand[:, r : r + 1])
        else:
            total = torch.baddbmm(total, low, expand)
        return total if total is y else total.to(y.dtype).view(y.shape)


class PopulationAdapters:
    """The adapters of a batch's rows in all adapted layers of a model."""

    def __init__(self, model: Any, names: Sequence[str], scaling: float) -> None:
        self._scaling = scaling
        self._groups: list[tuple[SharedShrink, list[str]]] = []
        self._layers: dict[str, PopulationLinear] = {}
        for group in _sharing_input(model, names):
            shrink = SharedShrink()
            self._groups.append((shrink, group))
            for name in group:
                parent, _, child = name.rpartition(".")
                self._layers[name] = PopulationLinear(model.get_submodule(name), shrink)
                setattr(model.get_submodule(parent), child, self._layers[name])

    def place(self, matrices: dict[str, tuple[Tensor, Tensor]], row_of: Tensor) -> None:
        """Give row i the adapter number row_of[i].

        matrices: A, shape [adapters, rank, in], and B, shape [adapters, out, rank], by layer; float32.
        """
        for shrink, group in self._groups:
            shrink.place([matrices[name][0][row_of] for name in group])
        for name, layer in self._layers.items():
            layer.place((matrices[name][1] * self._scaling).transpose(1, 2).contiguous()[row_of])

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows, by their present numbers."""
        for shrink, _ in self._groups:
            shrink.keep(rows)
        for layer in self._layers.values():
            layer.keep(rows)

    def clear(self) -> None:
        """The model is the base model again."""
        for shrink, _ in self._groups:
            shrink.clear()
        for layer in self._layers.values():
            layer.clear()


def _sharing_input(model: Any, names: Sequence[str]) -> list[list[str]]:
    """The names in groups that are given the very same tensor, as one forward pass of one token shows.

    Raises UserError for a layer that the pass does not reach: it would stay without its adapter in silence.
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
