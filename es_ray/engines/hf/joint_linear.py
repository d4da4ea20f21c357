"""Linear layers that are given the same input (q, k and v; gate and up) as one product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class JointLinear:
    """The outputs of several linear layers side by side; their weights become views of one matrix.

    On a CPU the float32 matrix is stored as [in, out], which MKL multiplies up to 2.5 times as fast.
    Layers of other kinds (quantised ones) are called one by one.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers = list(layers)
        self.widths = [layer.out_features for layer in layers]
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        dtypes = {layer.weight.dtype for layer in layers}
        if all(type(layer) is nn.Linear for layer in layers) and len(dtypes) == 1:
            self._join()

    def __call__(self, x: Tensor) -> Tensor:
        """x, shape [..., in], to [..., sum of widths], a new tensor."""
        if self._weight is not None:
            return nn.functional.linear(x, self._weight, self._bias)
        outputs = [layer(x) for layer in self._layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _join(self) -> None:
        weights = [layer.weight.data for layer in self._layers]
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        if joined.device.type == "cpu" and joined.dtype == torch.float32:
            joined = joined.t().contiguous().t()
        for layer, weight in zip(self._layers, joined.split(self.widths), strict=True):
            layer.weight.data = weight
        self._weight = joined
        if any(layer.bias is not None for layer in self._layers):
            biases = zip(self._layers, self.widths, strict=True)
            self._bias = torch.cat(
                [
                    joined.new_zeros(width) if layer.bias is None else layer.bias.data
                    for layer, width in biases
                ]
            )
