"""The start of SGLang's scheduler process, with our hooks.

`Engine` starts its scheduler with a function that a subclass may name. Ours, `run`, is that function: in the
new process it adds `es_ray_call` to `Scheduler`, registers our LoRA backend, keeps LoRA out of the layers
that are not adapted, and then runs SGLang's own.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from es_ray.engines.sglang.logits_watch import watch_logits
from es_ray.engines.sglang.scheduler_host import Options, SchedulerHost

_RANK = 3  # place of the tensor parallel rank among run_scheduler_process' arguments
_ATTRIBUTE = "_es_ray_host"


def run(*args: Any, options: Options, **kwargs: Any) -> None:
    """Run SGLang's scheduler process with our hooks; the arguments are SGLang's."""
    _redirect_output(options.log_file)
    from sglang.srt.managers.scheduler import Scheduler, run_scheduler_process

    from es_ray.engines.sglang import backend

    rank = int(args[_RANK])

    def es_ray_call(scheduler: Any, what: str, number: int, request: str, checksum: int, reply: str) -> None:
        host = getattr(scheduler, _ATTRIBUTE, None)
        if host is None:
            host = SchedulerHost(scheduler, rank, options)
            setattr(scheduler, _ATTRIBUTE, host)
        host.call(what, number, request, checksum, reply)

    Scheduler.es_ray_call = es_ray_call
    backend.register()
    adapt(frozenset(options.layout.layers))
    watch_logits()
    run_scheduler_process(*args, **kwargs)


def _redirect_output(log_file: str) -> None:
    """The process writes where its failure can be read later, whatever its parent's output is."""
    file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def adapt(layers: frozenset[int]) -> None:
    """Make LoRA cost nothing in other layers, no memory and no kernels, and little in these."""
    from sglang.srt.layers.utils.common import get_layer_id
    from sglang.srt.lora.lora_manager import LoRAManager
    from sglang.srt.lora.mem_pool import LoRAMemoryPool

    from es_ray.engines.sglang.backend import PopulationBackend, begin_before

    def shape_with_rank_0_elsewhere(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def shape(pool: Any, module_name: str, base_model: Any, rank: int, layer: int) -> Any:
            return original(pool, module_name, base_model, rank if layer in layers else 0, layer)

        return shape

    def asking_the_layer(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init_lora_modules(manager: Any) -> Any:
            before = getattr(manager.base_model, "should_apply_lora", None)

            def should_apply_lora(name: str) -> bool:
                return get_layer_id(name + ".") in layers and (before is None or before(name))

            manager.base_model.should_apply_lora = should_apply_lora  # asked from 0.5.23 on
            return original(manager)

        return init_lora_modules

    def then_switch_off(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def update_lora_info(manager: Any) -> None:
            original(manager)
            for layer, modules in enumerate(manager.lora_modules):
                for module in modules.values():
                    if layer not in layers:
                        module.set_lora = False  # 0.5.17 has wrapped the module; it runs as if it had not
                    elif isinstance(manager.lora_backend, PopulationBackend):
                        begin_before(module)

        return update_lora_info

    def unless_repeated(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def prepare_lora_batch(manager: Any, forward_batch: Any) -> None:
            backend, slot_of = manager.lora_backend, manager.memory_pool.uid_to_buffer_id
            if not isinstance(backend, PopulationBackend) or not backend.repeats(forward_batch, slot_of):
                original(manager, forward_batch)

        return prepare_lora_batch

    def unless_there(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def fetch_new_loras(manager: Any, new: set[str | None], running: Any = frozenset()) -> None:
            # what is in the pool stays there: nothing is evicted, so who was used last does not matter
            if not manager.memory_pool.uid_to_buffer_id.keys() >= new | running:
                original(manager, new, running)

        return fetch_new_loras

    LoRAMemoryPool.get_lora_A_shape = shape_with_rank_0_elsewhere(LoRAMemoryPool.get_lora_A_shape)
    LoRAMemoryPool.get_lora_B_shape = shape_with_rank_0_elsewhere(LoRAMemoryPool.get_lora_B_shape)
    LoRAManager.init_lora_modules = asking_the_layer(LoRAManager.init_lora_modules)
    LoRAManager.update_lora_info = then_switch_off(LoRAManager.update_lora_info)
    LoRAManager.prepare_lora_batch = unless_repeated(LoRAManager.prepare_lora_batch)
    LoRAManager.fetch_new_loras = unless_there(LoRAManager.fetch_new_loras)
