"""Where a model of SGLang's lets kernels that it runs anyway do a part of the adapters' products.

Gate and up get theirs in the activation; o and down in the norm that follows, with the residual. What such a
kernel computes is the input of the next projection, so it multiplies it with that one's A as well. Only where
the sources of a model show that nothing reads the values in between (`es_ray.engines.sglang.forward_source`);
elsewhere products are added right away. In the scheduler's process.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from es_ray.engines.sglang.forward_source import (
    hands_activation_on,
    hands_layers_on,
    norms_what_it_is_given,
    passes_to_activation,
    returns_output,
)
from es_ray.engines.sglang.lora.modules import module_a
from es_ray.engines.sglang.lora.norm_kernels import WIDEST


def add_in_activation(module: Any, parent: Any, silu_and_mul: type[Any]) -> None:
    """Add the adapters' products of a wrapped gate_up_proj in the activation of its parent, an MLP.

    Only if that activation is a `silu_and_mul` and the MLP uses gate and up nowhere else: Falcon-H1's
    multiplies them in between. Otherwise they are added right away.
    """
    activation: Any = getattr(parent, "act_fn", None)
    if (
        not getattr(module, "use_gate_up_lora", False)
        or type(activation) is not silu_and_mul
        or not passes_to_activation(_source(parent))
    ):
        return
    backend, original = module.lora_backend, activation.forward
    down = getattr(parent, "down_proj", None)
    with_down = _is_whole(down) and hands_activation_on(_source(parent))

    def forward(gate_up: Tensor) -> Tensor:
        done: Tensor | None = backend.activated(gate_up, module_a(down) if with_down else None)
        return original(gate_up) if done is None else done

    activation.forward = forward
    backend.leave_to_activation(module.B_buffer)


def add_in_norms(model: Any, modules: Mapping[str, Any], backend: Any, rms_norm: type[Any]) -> None:
    """Let the norms of decoder layers add what o and down leave, and multiply with A of qkv and of gate_up.

    modules: the wrapped modules with adapters by their names in the model, such as
    model.layers.3.self_attn.qkv_proj. Tensor parallel parts are left as they are.
    """
    modules = {name: module for name, module in modules.items() if _is_whole(module)}
    readers: dict[Any, Any] = {}  # a norm and the module with adapters that reads it
    for path in sorted({name.rsplit(".", 2)[0] for name in modules}):
        owner, _, number = path.rpartition(".layers.")
        if not number.isdecimal():
            continue
        stack, layer = model.get_submodule(owner), model.get_submodule(path)
        norms = _norms_around(stack, layer, int(number), rms_norm)
        if norms is None:
            continue
        before, between, after = norms
        readers[before] = modules.get(f"{path}.self_attn.qkv_proj")
        readers[between] = modules.get(f"{path}.mlp.gate_up_proj")
        readers.setdefault(after, None)
        for kind, name in (("self_attn", "o_proj"), ("mlp", "down_proj")):
            module = modules.get(f"{path}.{kind}.{name}")
            if module is not None and returns_output(_source(getattr(layer, kind)), name):
                backend.leave_to_norm(module.B_buffer)
    for norm, reader in readers.items():
        _add_in_norm(norm, reader, backend)


def _norms_around(stack: Any, layer: Any, number: int, rms_norm: type[Any]) -> tuple[Any, Any, Any] | None:
    """The norms before a layer's attention, before its MLP, and after the layer; None if one may do more."""
    if not norms_what_it_is_given(_source(layer)) or not hands_layers_on(_source(stack)):
        return None
    if getattr(stack, "layers_to_capture", None):
        return None
    last = number + 1 == len(stack.layers)
    after = stack.norm if last else getattr(stack.layers[number + 1], "input_layernorm", None)
    norms = (layer.input_layernorm, layer.post_attention_layernorm, after)
    return norms if all(_is_plain(norm, rms_norm) for norm in norms) else None


def _is_plain(norm: Any, rms_norm: type[Any]) -> bool:
    """Whether a norm is an RMSNorm of the usual kind, over whole rows that fit a program."""
    return (
        type(norm) is rms_norm
        and norm.has_weight
        and norm.variance_size_override is None
        and not norm.cast_x_before_out_mul
        and not norm.fp32_residual
        and norm.hidden_size <= WIDEST
    )


def _is_whole(module: Any) -> bool:
    """Whether a module has adapters and this process has all of it, not a tensor parallel part."""
    return getattr(module, "set_lora", False) and getattr(module.base_layer, "tp_size", None) == 1


def _add_in_norm(norm: Any, reader: Any | None, backend: Any) -> None:
    original = norm.forward

    def forward(x: Tensor, residual: Tensor | None = None, *more: Any, **named: Any) -> Any:
        if not more and not named and x.dim() == 2 and norm.weight.dtype == x.dtype:
            next_a = None if reader is None else module_a(reader)
            done = backend.normed(x, residual, norm.weight, norm.variance_epsilon, next_a)
            if done is not None:
                return done if residual is None else (done, residual)
        return original(x, residual, *more, **named)

    norm.forward = forward


def _source(module: Any) -> str:
    return inspect.getsource(type(module).forward)
