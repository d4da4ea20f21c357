"""A linear layer in which every row of the batch has a LoRA adapter of its own."""

import torch
from torch import Tensor, nn

_FEW = 4  # up to this rank, one scaled add per rank beats a batched product


class PopulationLinear(nn.Module):
    """y_i = W x_i + scaling * B_i A_i x_i for row i of the batch.

    The products run in float32 and are rounded once to the layer's dtype, as PEFT does it.
    """

    def __init__(self, base: nn.Linear, scaling: float) -> None:
        super().__init__()
        self.base = base
        self.scaling = scaling
        self.shrink: Tensor | None = None
        self.expand: Tensor | None = None

    def place(self, a: Tensor, b: Tensor) -> None:
        """Give each row its adapter: a, shape [rows, rank, in]; b, shape [rows, out, rank]; float32."""
        self.shrink = a.transpose(1, 2).contiguous()
        self.expand = (b * self.scaling).transpose(1, 2).contiguous()

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows, by their present numbers."""
        assert self.shrink is not None and self.expand is not None
        self.shrink, self.expand = self.shrink[rows], self.expand[rows]

    def clear(self) -> None:
        """Forget the adapters: the layer is the base layer again."""
        self.shrink = self.expand = None

    def forward(self, x: Tensor) -> Tensor:
        """x, shape [rows, tokens, in], to [rows, tokens, out]."""
        y = self.base(x)
        if self.shrink is None or self.expand is None:
            return y
        low = torch.bmm(x.float(), self.shrink)
        total = y.float()  # y itself in float32: it is ours to add to
        if low.shape[-1] <= _FEW:
            for rank in range(low.shape[-1]):
                total.addcmul_(low[..., rank : rank + 1], self.expand[:, rank : rank + 1])
        else:
            total = torch.baddbmm(total, low, self.expand)
        return total.to(y.dtype)


def adapt(model: nn.Module, names: list[str], scaling: float) -> dict[str, PopulationLinear]:
    """Replace the named linear layers of a model; returns the replacements by name."""
    adapted = {}
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        adapted[name] = PopulationLinear(model.get_submodule(name), scaling)  # type: ignore[arg-type]
        setattr(parent, name.rpartition(".")[2], adapted[name])
    return adapted
