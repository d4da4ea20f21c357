"""SGLang's batch-invariant products with tiles that fit the rows, against its own."""

import pytest
import torch

from es_ray.engines.sglang import compat
from es_ray.engines.sglang.deterministic import KERNEL, TILES, FittingTiles, same_bits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
SIZES = [(3584, 4608), (18944, 3584), (3584, 37888), (576, 960), (130, 57), (1000, 1)]
ROWS = (1, 8, 33, 60, 64, 65, 128, 200, 512, 1000)


@pytest.fixture
def products(monkeypatch):
    """SGLang's own product, and the same function with es-ray's tiles."""
    from sglang.srt.batch_invariant_ops import batch_invariant_ops as theirs

    def product_by(kernel):
        def product(a, weight, bias):
            monkeypatch.setattr(theirs, KERNEL, kernel)
            return theirs._matmul_persistent_triton(a, weight.t(), bias)

        return product

    own = getattr(theirs, KERNEL)
    return product_by(own), product_by(FittingTiles(own, same_bits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_tiles_give_the_same_bits(dtype):
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    assert same_bits(getattr(batch_invariant_ops, KERNEL), dtype) == list(TILES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inner, outputs", SIZES)
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_the_bits_are_those_of_sglangs_tiles_and_of_fewer_rows(products, inner, outputs, biased, dtype):
    sglangs, ours = products
    torch.manual_seed(inner + outputs)
    weight = torch.randn(outputs, inner, device="cuda").mul_(inner**-0.5).to(dtype)
    bias = torch.randn(outputs, device="cuda").to(dtype) if biased else None
    x = torch.randn(max(ROWS), inner, device="cuda").to(dtype)
    found = ours(x, weight, bias)
    assert torch.equal(found, sglangs(x, weight, bias))
    for rows in ROWS:
        assert torch.equal(ours(x[:rows], weight, bias), found[:rows])
    right = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    assert ((found.double() - right).abs() <= right.abs() * torch.finfo(dtype).eps + 1e-4).all()
