"""The LoRA backend behind SGLang's interface, without an engine."""

import pytest
import torch

from es_ray.engines.sglang import compat
from tests.engines.sglang.lora_products import activated, case, wanted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
QKV, GATE_UP, WIDTH, ADAPTERS = (3584, 512, 512), (18944, 18944), 3584, 9


def products(rank, outputs, rows):
    """A backend whose batch has such rows, and the tensors of a product."""
    from es_ray.engines.sglang.lora.backend import PopulationBackend

    slots = (
        torch.randint(0, ADAPTERS + 1, (rows,), generator=torch.Generator().manual_seed(rows)) - 1
    ).tolist()
    x, y, a, b, given = case(rank, outputs, WIDTH, slots, ADAPTERS, torch.bfloat16, "cuda", seed=rank)
    a *= WIDTH**-0.5
    backend = PopulationBackend(ADAPTERS, torch.device("cuda"))
    backend.batch_info = given
    return backend, (x, y, a, b, given)


def ends(outputs):
    return torch.tensor([0, *outputs]).cumsum(0)


@pytest.mark.parametrize("rows", [1, 60, 128, 129, 300])
@pytest.mark.parametrize("rank", [1, 8])
def test_beside_the_base_product_or_after_it_the_bits_are_the_same(rank, rows):
    backend, (x, y, a, b, given) = products(rank, QKV, rows)
    weight = torch.randn(sum(QKV), WIDTH, device="cuda", dtype=torch.bfloat16) * 0.01

    def run(begin):
        if begin:
            backend.begin(x, a)
        base = torch.nn.functional.linear(x, weight)
        return base.clone(), backend.run_qkv_lora(x, a, b, output_offset_cpu=ends(QKV), base_output=base)

    base, after = run(False)
    for _ in range(20):
        assert torch.equal(run(True)[1], after)
    right, _ = wanted(x, base, a, b, given, QKV)
    assert ((after.double() - right).abs() <= right.abs() * 2**-8 + 1e-4).all()


def test_what_was_begun_for_another_input_is_not_used():
    backend, (x, y, a, b, given) = products(1, QKV, 60)
    backend.begin(x + 1, a)
    right, _ = wanted(x, y, a, b, given, QKV)
    found = backend.run_qkv_lora(x, a, b, output_offset_cpu=ends(QKV), base_output=y)
    assert ((found.double() - right).abs() <= right.abs() * 2**-8 + 1e-4).all()


@pytest.mark.parametrize("rows", [1, 60, 300])
@pytest.mark.parametrize("rank", [1, 3, 8, 16])
def test_gate_and_up_in_the_activation_are_those_of_float64(rank, rows):
    backend, (x, y, a, b, given) = products(rank, GATE_UP, rows)
    assert backend.activated(y) is None
    backend.leave_to_activation(b)
    right = activated(x, y, a, b, given, GATE_UP)
    backend.begin(x, a)
    left = backend.run_gate_up_lora(x, a, b, output_offset_cpu=ends(GATE_UP), base_output=y)
    assert left is y
    found = backend.activated(left)
    assert ((found.double() - right).abs() <= right.abs() * 2**-8 + 1e-4).all()
    assert backend.activated(y) is None


def test_the_base_models_rows_are_sglangs_to_a_rounding():
    from sglang.srt.layers.activation import silu_and_mul

    backend, (x, y, a, b, given) = products(1, GATE_UP, 60)
    given.slots.fill_(-1)
    backend.leave_to_activation(b)
    found = backend.activated(
        backend.run_gate_up_lora(x, a, b, output_offset_cpu=ends(GATE_UP), base_output=y)
    )
    theirs = silu_and_mul(y)
    assert ((found.double() - theirs.double()).abs() <= theirs.double().abs() * 2**-7).all()
    assert (found != theirs).double().mean() < 1e-3


def test_gate_and_up_that_no_activation_adds_are_an_error():
    backend, (x, y, a, b, given) = products(1, GATE_UP, 4)
    backend.leave_to_activation(b)

    def run():
        return backend.run_gate_up_lora(x, a, b, output_offset_cpu=ends(GATE_UP), base_output=y)

    run()
    with pytest.raises(RuntimeError, match="did not receive gate and up unchanged"):
        backend.activated(y.clone())
    with pytest.raises(RuntimeError, match="no activation took"):
        run()
