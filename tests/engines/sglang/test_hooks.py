"""Where the adapters of gate and up are added, in MLPs of several kinds; SGLang is not needed."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional

from es_ray.engines.sglang.lora.hooks import add_in_activation
from tests.engines.sglang.lora_products import GATE_UP, case, wanted

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles here: tests/gpu checks the engine", allow_module_level=True)
SLOTS, WIDTH, DTYPE = [1, -1, 0, 2], 64, torch.float16


class SiluAndMul(nn.Module):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate) * up


class GeluAndMul(nn.Module):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return functional.gelu(gate) * up


class GateUp(nn.Module):
    """A linear layer as SGLang wraps it."""

    use_gate_up_lora = True

    def __init__(self, backend, base, a, b):
        super().__init__()
        self.lora_backend, self.base, self.A_buffer, self.B_buffer = backend, base, a, b

    def forward(self, x):
        self.output = self.base.clone()
        ends = torch.tensor([0, *GATE_UP]).cumsum(0)
        found = self.lora_backend.run_gate_up_lora(
            x, self.A_buffer, self.B_buffer, output_offset_cpu=ends, base_output=self.output
        )
        return found, None


class MLP(nn.Module):
    def __init__(self, gate_up_proj, activation):
        super().__init__()
        self.gate_up_proj, self.act_fn = gate_up_proj, activation

    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        return self.act_fn(gate_up)


class Multiplying(MLP):
    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        gate_up[:, : GATE_UP[0]] *= 0.5
        return self.act_fn(gate_up)


@pytest.fixture
def backend(monkeypatch):
    """Our backend on a CPU, in Triton's interpreter, with what it takes of SGLang made empty."""

    class Base:
        def __init__(self, *_):
            self.batch_info = None

    def module(name, **content):
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    for name in ("sglang", "sglang.srt", "sglang.srt.lora", "sglang.srt.lora.backend"):
        module(name)
    module("sglang.srt.lora.backend.base_backend", BaseLoRABackend=Base)
    module("sglang.srt.lora.backend.lora_registry", register_lora_backend=lambda name: lambda made: made)
    monkeypatch.delitem(sys.modules, "es_ray.engines.sglang.lora.backend", raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    from es_ray.engines.sglang.lora.backend import PopulationBackend

    yield PopulationBackend(3, torch.device("cpu"))
    sys.modules.pop("es_ray.engines.sglang.lora.backend")


def layer(backend, kind, activation, seed):
    """An MLP with the hook, its input, whose rows they are, and gate and up with adapters in float64."""
    x, y, a, b, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE, seed=seed)
    a *= 0.1
    backend.batch_info = rows
    mlp = kind(GateUp(backend, y, a, b), activation)
    add_in_activation(mlp.gate_up_proj, mlp, SiluAndMul)
    return mlp, x, rows, wanted(x, y, a, b, rows, GATE_UP)[0]


def close(found, right):
    return ((found.double() - right).abs() <= right.abs() * 2**-9 + 1e-3).all()


def test_gate_and_up_are_left_to_the_activation_in_every_layer(backend):
    layers = [layer(backend, MLP, SiluAndMul(), seed) for seed in range(2)]
    for _ in range(2):
        for mlp, x, rows, right in layers:
            backend.batch_info = rows
            assert close(mlp(x), SiluAndMul()(right))
            assert torch.equal(mlp.gate_up_proj.output, mlp.gate_up_proj.base)


def test_another_activation_gets_them_added(backend):
    mlp, x, _, right = layer(backend, MLP, GeluAndMul(), 0)
    assert close(mlp(x), GeluAndMul()(right))


def test_an_mlp_that_changes_gate_or_up_gets_them_added_before(backend):
    mlp, x, _, right = layer(backend, Multiplying, SiluAndMul(), 0)
    right[:, : GATE_UP[0]] *= 0.5
    assert close(mlp(x), SiluAndMul()(right))


def test_without_adapters_the_activation_is_as_it_was(backend):
    mlp, _, _, right = layer(backend, MLP, SiluAndMul(), 0)
    assert torch.equal(mlp.act_fn(right), SiluAndMul()(right))


def test_a_wrapper_of_other_outputs_is_left_alone(backend):
    x, y, a, b, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    mlp = MLP(GateUp(backend, y, a, b), SiluAndMul())
    mlp.gate_up_proj.use_gate_up_lora = False
    add_in_activation(mlp.gate_up_proj, mlp, SiluAndMul)
    backend.batch_info = rows
    mlp(x)
    assert not torch.equal(mlp.gate_up_proj.output, y)


def test_gate_and_up_that_nothing_activates_are_an_error(backend):
    mlp, x, _, _ = layer(backend, MLP, SiluAndMul(), 0)
    mlp.gate_up_proj(x)
    with pytest.raises(RuntimeError, match=r"no activation.*lora_backend=csgmv"):
        mlp(x)
