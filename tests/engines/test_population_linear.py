"""Products of adapters in bfloat16 on a CPU, against float64."""

import pytest
import torch

from es_ray.engines.hf.population_linear import Projections

UNIT = 2.0**-8
"""The largest relative error of rounding to bfloat16."""


@pytest.fixture(params=["avx512_bf16", "avx2"])
def cpu(request, monkeypatch):
    """A CPU with products in bfloat16, and one that has none, where products are float32 ones."""
    found = {"architecture": "x86_64", request.param: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    return request.param


def projections(outs: tuple[int, ...], width: int) -> tuple[Projections, list[torch.nn.Linear]]:
    generator = torch.Generator().manual_seed(1)
    layers = [torch.nn.Linear(width, out, bias=False, dtype=torch.bfloat16) for out in outs]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator).bfloat16()
    return Projections([f"layer{number}" for number in range(len(outs))], layers), layers


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("rank", [1, 4])
def test_a_bfloat16_product_is_within_rounding_of_float64(rank, tokens, cpu):
    generator = torch.Generator().manual_seed(2)
    group, layers = projections((24, 8), 48)
    weights = [layer.weight.double().clone() for layer in layers]
    matrices = [
        (torch.randn(3, rank, 48, generator=generator), torch.randn(3, out, rank, generator=generator))
        for out in (24, 8)
    ]
    x = torch.randn(6, tokens, 48, generator=generator).bfloat16()
    numbers = [2, 0, 0, 1, 2, 2]
    with torch.inference_mode():
        group.write(matrices, 0.5)
        group.assign(numbers)
        found = [group.output(index, x) for index in range(2)]
    for weight, (a, b), ours in zip(weights, matrices, found, strict=True):
        assert ours.dtype == torch.bfloat16
        base = x.double() @ weight.T
        low = torch.einsum("rti,rki->rtk", x.double(), a[numbers].double())
        added = 0.5 * torch.einsum("rtk,rok->rto", low, b[numbers].double())
        sizes = torch.einsum("rti,rki->rtk", x.double().abs(), a[numbers].double().abs())
        most = 0.5 * torch.einsum("rtk,rok->rto", sizes, b[numbers].double().abs())
        off = (ours.double() - base - added).abs()
        assert (off <= 2 * UNIT * (base.abs() + most) + 1e-6).all()
        if cpu == "avx2":  # rounded once
            assert (off <= UNIT * (base + added).abs() + 2.0**-16 * (1 + base.abs() + most)).all()
        assert (added.abs() > 8 * UNIT * base.abs()).double().mean() > 0.2, "adapters matter here"


@pytest.mark.usefixtures("cpu")
def test_a_b_of_zeros_leaves_every_bit():
    group, _ = projections((16,), 32)
    x = torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.inference_mode():
        plain = group.output(0, x).clone()
        group.write([(torch.randn(2, 1, 32), torch.zeros(2, 16, 1))], 2.0)
        group.assign([0, 0, 1, 1])
        assert group.output(0, x).equal(plain)
