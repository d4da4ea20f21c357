"""The start of SGLang's scheduler process, with our hooks.

`Engine` starts its scheduler with a function that a subclass may name. Ours, `run`, is that function: in the
new process it adds `es_ray_call` to `Scheduler`, registers our LoRA backend, keeps LoRA out of the layers
that are not adapted, and then runs SGLang's own.
"""

import os
from typing import Any

from es_ray.engines.sglang.finite_logits import check_logits
from es_ray.engines.sglang.ipc.scheduler_host import Options, SchedulerHost

_RANK = 3  # place of the tensor parallel rank among run_scheduler_process' arguments
_ATTRIBUTE = "_es_ray_host"


def run(*args: Any, options: Options, **kwargs: Any) -> None:
    """Run SGLang's scheduler process with our hooks; the arguments are SGLang's."""
    _redirect_output(options.log_file)
    os.environ["SGLANG_SANITIZE_NAN_LOGITS"] = "0"  # or finite_logits would see numbers in their place
    from sglang.srt.managers.scheduler import Scheduler, run_scheduler_process

    from es_ray.engines.sglang.lora import backend, hooks

    rank = int(args[_RANK])

    def es_ray_call(scheduler: Any, what: str, number: int, request: str, checksum: int, reply: str) -> None:
        host = getattr(scheduler, _ATTRIBUTE, None)
        if host is None:
            host = SchedulerHost(scheduler, rank, options)
            setattr(scheduler, _ATTRIBUTE, host)
        host.call(what, number, request, checksum, reply)

    Scheduler.es_ray_call = es_ray_call
    backend.register()
    hooks.install(frozenset(options.layout.layers))
    check_logits()
    run_scheduler_process(*args, **kwargs)


def _redirect_output(log_file: str) -> None:
    """The process writes where its failure can be read later, whatever its parent's output is."""
    file = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
