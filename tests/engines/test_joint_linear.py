"""Layers of one input, computed together, against each of them alone."""

import pytest
import torch
from torch import nn

from es_ray.engines.hf.joint_linear import JointLinear


class Other(nn.Linear):
    """A kind of linear layer that only its own forward can compute."""

    def forward(self, x):
        return 2 * super().forward(x)


def layer(out, bias=False, kind=nn.Linear, dtype=torch.float32):
    return kind(24, out, bias=bias, dtype=dtype).requires_grad_(False)


@pytest.mark.parametrize(
    "layers",
    [
        [layer(16)],
        [layer(16, bias=True)],
        [layer(32, bias=True), layer(8, bias=True), layer(8, bias=True)],
        [layer(32), layer(8, bias=True), layer(4)],
        [layer(12), layer(12)],
        [layer(16, kind=Other)],
        [layer(32), layer(8, bias=True, kind=Other)],
        [layer(12, dtype=torch.bfloat16), layer(20, bias=True, dtype=torch.bfloat16)],
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 1), (5, 7), (35,)])
def test_outputs_and_weights_are_those_of_the_layers(layers, shape):
    x = torch.randn(*shape, 24, dtype=layers[0].weight.dtype)
    wanted = torch.cat([layer(x) for layer in layers], dim=-1)
    weights = [layer.weight.clone() for layer in layers]
    joint = JointLinear(layers)
    assert joint.widths == [layer.out_features for layer in layers]
    tolerance = 1e-5 if x.dtype == torch.float32 else 2e-2
    assert torch.allclose(joint(x), wanted, atol=tolerance)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, weights, strict=True))


def test_weights_are_not_held_twice():
    layers = [layer(32), layer(8), layer(8)]
    JointLinear(layers)
    assert len({layer.weight.untyped_storage().data_ptr() for layer in layers}) == 1
