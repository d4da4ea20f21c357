"""Where adapters are added, in MLPs and decoder layers of several kinds; SGLang is not needed."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.engines.sglang.lora_products import GATE_UP, case, wanted

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton compiles here: tests/gpu checks the engine", allow_module_level=True)

from es_ray.engines.sglang.lora import kernels  # noqa: E402
from es_ray.engines.sglang.lora.fusing import add_in_activation, add_in_norms  # noqa: E402

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
def backend_of(monkeypatch):
    """Makes our backend on a CPU, in Triton's interpreter, with what it takes of SGLang made empty."""

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

    def make(deterministic):
        arguments = SimpleNamespace(enable_deterministic_inference=deterministic)
        return PopulationBackend(3, torch.device("cpu"), server_args=arguments)

    yield make
    sys.modules.pop("es_ray.engines.sglang.lora.backend")


@pytest.fixture
def backend(backend_of):
    return backend_of(deterministic=False)


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


class Linear(nn.Module):
    """A projection as SGLang wraps it; keeps its last output."""

    def __init__(self, backend, generator, rank, width, outputs, name):
        super().__init__()
        self.lora_backend, self.name, self.outputs, self.rank = backend, name, outputs, rank
        self.set_lora, self.base_layer = True, SimpleNamespace(tp_size=1)
        self.use_gate_up_lora = name == "gate_up_proj"

        def drawn(*shape):
            return (torch.randn(*shape, generator=generator) * shape[-1] ** -0.5).to(DTYPE)

        self.weight = drawn(sum(outputs), width)
        a = drawn(3, len(outputs) * rank, width)
        setattr(self, "A_buffer_qkv" if name == "qkv_proj" else "A_buffer", a)
        self.a, self.B_buffer = a, torch.randn(3, sum(outputs), rank, generator=generator).to(DTYPE)

    def forward(self, x):
        self.output = (x.float() @ self.weight.float().T).to(DTYPE)
        self.kept = self.output.clone()
        if not self.set_lora:
            return self.output, None
        named = {"output_offset_cpu": torch.tensor([0, *self.outputs]).cumsum(0), "base_output": self.output}
        if len(self.outputs) > 1:
            run = (
                self.lora_backend.run_gate_up_lora
                if self.use_gate_up_lora
                else self.lora_backend.run_qkv_lora
            )
            return run(x, self.a, self.B_buffer, **named), None
        products = self.lora_backend.run_lora_a_sgemm(x, self.a)
        return self.lora_backend.run_lora_b_sgemm(products, self.B_buffer, base_output=self.output), None

    def exact(self, x, rows):
        if not self.set_lora:
            return x @ self.weight.double().T
        return wanted(x, x @ self.weight.double().T, self.a, self.B_buffer, rows, self.outputs)[0]


class RMSNorm(nn.Module):
    def __init__(self, generator, width):
        super().__init__()
        self.weight = torch.rand(width, generator=generator).to(DTYPE)
        self.variance_epsilon, self.hidden_size, self.has_weight = 1e-6, width, True
        self.variance_size_override, self.cast_x_before_out_mul, self.fp32_residual = None, False, False

    def forward(self, x, residual=None):
        summed = x.double() if residual is None else x.double() + residual.double()
        return (
            self.of(summed).to(DTYPE) if residual is None else (self.of(summed).to(DTYPE), summed.to(DTYPE))
        )

    def of(self, summed):
        mean = summed.square().mean(1, keepdim=True)
        return summed * (mean + self.variance_epsilon).rsqrt() * self.weight.double()


class Attention(nn.Module):
    """Of each row alone."""

    def __init__(self, make):
        super().__init__()
        self.qkv_proj, self.o_proj = make(WIDTH, (48, 16, 16), "qkv_proj"), make(48, (WIDTH,), "o_proj")

    def forward(self, hidden_states):
        qkv, _ = self.qkv_proj(hidden_states)
        mixed = self.mix(qkv)
        output, _ = self.o_proj(mixed)
        return output

    def mix(self, qkv):
        return qkv[:, :48] * qkv[:, 48:].repeat(1, 2)[:, :48].sigmoid()


class TwoNorms(Attention):
    def forward(self, hidden_states):
        qkv, _ = self.qkv_proj(hidden_states)
        mixed = self.mix(qkv)
        output, _ = self.o_proj(mixed)
        return output + 0


class WholeMLP(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.gate_up_proj, self.down_proj = (
            make(WIDTH, GATE_UP, "gate_up_proj"),
            make(24, (WIDTH,), "down_proj"),
        )
        self.act_fn = SiluAndMul()

    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        x = self.act_fn(gate_up)
        x, _ = self.down_proj(x)
        return x


class Layer(nn.Module):
    def __init__(self, make, norm, attention):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self.self_attn, self.mlp = attention(make), WholeMLP(make)

    def forward(self, hidden_states, residual):
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(hidden_states=hidden_states)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def exact(self, x, rows):
        attention, mlp = self.self_attn, self.mlp
        mixed = attention.mix(attention.qkv_proj.exact(self.input_layernorm.of(x), rows))
        x = x + attention.o_proj.exact(mixed, rows)
        gate, up = mlp.gate_up_proj.exact(self.post_attention_layernorm.of(x), rows).split(GATE_UP, dim=1)
        return x + mlp.down_proj.exact(functional.silu(gate) * up, rows)


class Stack(nn.Module):
    """A model of three layers; those of `adapted` have adapters."""

    def __init__(self, backend, rank, adapted, kinds=(Attention, Attention, Attention)):
        super().__init__()
        generator = torch.Generator().manual_seed(rank)

        def make(width, outputs, name):
            return Linear(backend, generator, rank, width, outputs, name)

        def norm():
            return RMSNorm(generator, WIDTH)

        self.layers = nn.ModuleList([Layer(make, norm, kind) for kind in kinds])
        self.norm, self.layers_to_capture = norm(), []
        self.modules_with_adapters = {}
        for name, module in self.named_modules():
            if isinstance(module, Linear):
                module.set_lora = int(name.split(".")[1]) in adapted
                if module.set_lora:
                    self.modules_with_adapters[f"model.{name}"] = module

    def forward(self, hidden_states):
        residual = None
        for index in range(len(self.layers)):
            if index in self.layers_to_capture:
                raise AssertionError
            layer = self.layers[index]
            hidden_states, residual = layer(hidden_states, residual)
        hidden_states, _ = self.norm(hidden_states, residual)
        return hidden_states

    def exact(self, x, rows):
        for layer in self.layers:
            x = layer.exact(x, rows)
        return self.norm.of(x)

    def install(self, backend):
        whole = nn.ModuleDict({"model": self})
        for name, module in self.modules_with_adapters.items():
            add_in_activation(module, whole.get_submodule(name.rpartition(".")[0]), SiluAndMul)
        add_in_norms(whole, self.modules_with_adapters, backend, RMSNorm)
        return self


def untouched(model, name):
    """The layers, among those with adapters, in which a projection's output was left to a later kernel."""
    modules = [(int(n.split(".")[2]), m) for n, m in model.modules_with_adapters.items() if n.endswith(name)]
    return {layer for layer, module in modules if torch.equal(module.output, module.kept)}


@pytest.mark.parametrize("deterministic", [False, True])
def test_products_of_a_high_rank_are_left_to_the_kernel_beside_the_base_product(
    backend_of, deterministic, monkeypatch
):
    """Of rank 3 (nine rows of A for q, k, v), unless a row's bits must not depend on how many run with it."""
    backend = backend_of(deterministic)
    x, _, _, _, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    backend.batch_info = rows
    model = Stack(backend, 3, {0, 1, 2}).install(backend)
    calls = []
    shrink = kernels.shrink
    monkeypatch.setattr(
        kernels, "shrink", lambda x, a, *more: (calls.append(a.shape[1]), shrink(x, a, *more))
    )
    few = model(x.clone())
    assert calls == ([3, 3, 3] if deterministic else [9, 3, 9, 3, 9, 3])  # o's, and q, k, v's
    monkeypatch.setattr(sys.modules[type(backend).__module__], "BESIDE_ROWS", 2)
    calls.clear()
    as_of_many = model(x.clone())
    assert calls == [3, 3, 3]
    if deterministic:
        assert torch.equal(few, as_of_many)


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("adapted", [{0, 1, 2}, {1}])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_whole_model_answers_as_in_float64(backend_of, rank, adapted, deterministic):
    backend = backend_of(deterministic)
    x, _, _, _, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    backend.batch_info = rows
    model = Stack(backend, rank, adapted).install(backend)
    shrunk = []
    original = kernels.shrink
    backend_kernels(backend).shrink = lambda *given: (shrunk.append(given[1].shape), original(*given))
    right = model.exact(x.double(), rows)
    try:
        for _ in range(2):
            shrunk.clear()
            found = model(x.clone())
            assert ((found.double() - right).abs() < 0.02).all()
            assert found[1].isfinite().all()
    finally:
        backend_kernels(backend).shrink = original
    assert untouched(model, "o_proj") == untouched(model, "down_proj") == adapted
    assert untouched(model, "gate_up_proj") == adapted and not untouched(model, "qkv_proj")
    # all other products with A came with the kernel that made their input, if they are few
    many = [] if deterministic else [rows_of_a for rows_of_a in (3 * rank, 2 * rank) if rows_of_a > 8]
    beside = [(3, rows_of_a, WIDTH) for rows_of_a in many]
    assert shrunk == [*beside[:1], (3, rank, 48), *beside[1:]] * len(adapted)


def backend_kernels(backend):
    return sys.modules[type(backend).__module__].kernels


def test_a_layer_that_does_more_gets_them_added_right_away(backend):
    x, _, _, _, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    backend.batch_info = rows
    model = Stack(backend, 2, {0, 1, 2}, (Attention, TwoNorms, Attention)).install(backend)
    assert ((model(x.clone()).double() - model.exact(x.double(), rows)).abs() < 0.02).all()
    assert untouched(model, "o_proj") == {0, 2} and untouched(model, "down_proj") == {0, 1, 2}


@pytest.mark.parametrize("change", ["another norm", "captured", "tensor parallel"])
def test_what_is_not_known_is_added_right_away(backend, change):
    class OtherNorm(RMSNorm):
        pass

    x, _, _, _, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    backend.batch_info = rows
    model = Stack(backend, 1, {0, 1, 2})
    if change == "another norm":
        for module in model.modules():
            if type(module) is RMSNorm:
                module.__class__ = OtherNorm
    elif change == "captured":
        model.layers_to_capture = [7]
    else:
        for module in model.modules_with_adapters.values():
            module.base_layer.tp_size = 2
    model.install(backend)
    assert ((model(x.clone()).double() - model.exact(x.double(), rows)).abs() < 0.02).all()
    assert not untouched(model, "o_proj") and not untouched(model, "down_proj")


def test_an_output_that_no_norm_takes_is_an_error(backend):
    x, _, _, _, rows = case(1, GATE_UP, WIDTH, SLOTS, 3, DTYPE)
    backend.batch_info = rows
    model = Stack(backend, 1, {0}).install(backend)
    layer = model.layers[0]
    layer.self_attn(x)
    with pytest.raises(RuntimeError, match=r"no norm took.*lora_backend=csgmv"):
        layer.self_attn(x)
    with pytest.raises(RuntimeError, match=r"a norm did not receive.*lora_backend=csgmv"):
        layer.post_attention_layernorm(x, x)
