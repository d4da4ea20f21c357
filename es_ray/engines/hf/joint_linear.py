"""Linear layers that are given the same input (q, k and v; gate and up) as one product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from es_ray.engines.hf.cpu_dtype import multiplies_in


class JointLinear:
    """The outputs of several linear layers side by side; their weights become views of one matrix.

    On a CPU the matrix is stored as [in, out], which MKL multiplies up to 2.5 times as fast in float32;
    unless the CPU multiplies in the matrix's dtype itself.
    Layers of other kinds (quantised ones) are called one by one.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self._layers = list(layers)
        self.widths = [layer.out_features for layer in layers]
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self.emulated = False
        """Whether a product in the weights' dtype is slow here: float32 activations are to be given then."""
        dtypes = {layer.weight.dtype for layer in layers}
        if all(type(layer) is nn.Linear for layer in layers) and len(dtypes) == 1:
            self._join()

    def __call__(self, x: Tensor) -> Tensor:
        """x, shape [..., in], to [..., sum of widths], a new tensor of x's dtype."""
        if self._weight is not None:
            bias = None if self._bias is None else self._bias.to(x.dtype)
            return nn.functional.linear(x, self._weight.to(x.dtype), bias)
        outputs = [layer(x) for layer in self._layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)

    def _join(self) -> None:
        weights = [layer.weight.data for layer in self._layers]
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        on_cpu = joined.device.type == "cpu"
        self.emulated = on_cpu and not multiplies_in(joined.dtype)
        if on_cpu and (self.emulated or joined.dtype == torch.float32):
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
