"""SGLang's batch-invariant products with tiles that fit the rows, against its own."""

import pytest
import torch

from es_ray.engines.sglang import compat
from es_ray.engines.sglang.deterministic import KERNEL, REFERENCE, TILES, FittingTiles, same_bits

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
            return theirs.matmul_persistent(a, weight.t(), bias=bias)

        return product

    monkeypatch.setattr(theirs, "_ENABLE_MM_DEEPGEMM", False)
    own = getattr(theirs, KERNEL)
    return product_by(own), product_by(FittingTiles(own, same_bits))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_tiles_that_the_gpu_has_room_for_give_the_same_bits(dtype, caplog):
    from sglang.srt.batch_invariant_ops import batch_invariant_ops

    found = same_bits(getattr(batch_invariant_ops, KERNEL), dtype)
    assert REFERENCE in found
    assert not caplog.records
    if torch.cuda.get_device_capability() == (9, 0):
        assert found == list(TILES)


def test_tiles_that_pass_have_room_in_the_products_of_models(products, caplog):
    """What the test at the start finds to fit does: no launch of an aligned product falls back."""
    _, ours = products
    for rows in (8, 60, 256, 512, 2048):  # each tile but SGLang's is the best of one
        for outputs in (3584, 37888):
            x, weight = (torch.randn(size, 3584, device="cuda").bfloat16() for size in (rows, outputs))
            ours(x, weight, torch.randn(outputs, device="cuda").bfloat16())
    assert not caplog.records


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
