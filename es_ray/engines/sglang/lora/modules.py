"""Modules as SGLang wraps them for LoRA."""

from typing import Any

from torch import Tensor


def module_a(module: Any) -> Tensor:
    """A of a wrapped module, [slots, c * rank, in]."""
    a: Tensor = module.A_buffer_qkv if hasattr(module, "A_buffer_qkv") else module.A_buffer
    return a


def begin_before(module: Any) -> None:
    """Start a wrapped module's A products before its base product."""

    def begin(module: Any, arguments: tuple[Any, ...]) -> None:
        module.lora_backend.begin(arguments[0], module_a(module))

    module.register_forward_pre_hook(begin)
