"""Starts SGLang's scheduler process with our hooks.

`Engine` starts its scheduler with a function that a subclass may set: ours is `run`. In the new process it
adds `es_ray_call` to `Scheduler`, registers our LoRA backend, keeps LoRA out of layers that are not adapted,
shortens what the host does in each step, lets prompts wait for a pass that pays, makes deterministic
inference faster, and then runs SGLang's own function.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from es_ray.engines.sglang import decode_results, deterministic, refill
from es_ray.engines.sglang.finite_logits import check_logits
from es_ray.engines.sglang.ipc.merged_host import reserve_memory
from es_ray.engines.sglang.ipc.scheduler_host import Options, SchedulerHost

_ATTRIBUTE = "_es_ray_host"


def run(*args: Any, options: Options, **kwargs: Any) -> None:
    """Run SGLang's scheduler process with our hooks; the arguments are SGLang's."""
    _redirect_output(options.log_file)
    os.environ["SGLANG_SANITIZE_NAN_LOGITS"] = "0"  # or finite_logits would not see NaN
    from sglang.srt.layers import sampler
    from sglang.srt.managers.scheduler import Scheduler, run_scheduler_process

    from es_ray.engines.sglang.lora import backend, hooks

    rank = tensor_parallel_rank(run_scheduler_process, args, kwargs)

    def es_ray_call(scheduler: Any, what: str, number: int, request: str, checksum: int, reply: str) -> None:
        host = getattr(scheduler, _ATTRIBUTE, None)
        if host is None:
            host = SchedulerHost(scheduler, rank, options)
            setattr(scheduler, _ATTRIBUTE, host)
        host.call(what, number, request, checksum, reply)

    Scheduler.es_ray_call = es_ray_call
    backend.register()
    hooks.install(frozenset(options.layout.layers))
    if options.layout.form == "merged":
        reserve_memory(options.layout)
    check_logits()
    decode_results.shorten()
    refill.wait_for_rows()
    if options.split_tokens is not None:
        deterministic.speed_up(options.split_tokens)
    # log-probabilities at temperature 1 for any sampling; its environment variable may be read already
    sampler.SGLANG_RETURN_ORIGINAL_LOGPROB = True
    run_scheduler_process(*args, **kwargs)


def tensor_parallel_rank(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The tensor parallel rank among the arguments of SGLang's function, which versions order differently."""
    return int(inspect.signature(function).bind(*args, **kwargs).arguments["tp_rank"])


def _redirect_output(log_file: str) -> None:
    """Write the process's output to a file, where its failure can be read later."""
    file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
