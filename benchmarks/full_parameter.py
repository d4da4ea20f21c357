"""The full-parameter way inside SGLang's scheduler: weights moved in place along noise from a seed.

As es-fine-tuning-paper does in vLLM's workers: one generator, parameter by parameter; perturbed for a member
and restored afterwards.
"""

from typing import Any


def run(*args: Any, **kwargs: Any) -> None:
    """SGLang's scheduler process with the method `es_ray_perturb`."""
    from sglang.srt.managers.scheduler import Scheduler, run_scheduler_process

    Scheduler.es_ray_perturb = perturb
    run_scheduler_process(*args, **kwargs)


def perturb(scheduler: Any, seed: int, scale: float) -> None:
    """Add scale x noise(seed) to every parameter; the negative scale takes it back (but for rounding)."""
    import torch

    assert scheduler.flush_cache(empty_cache=False), "the scheduler is busy"
    model = scheduler.tp_worker.model_runner.model
    generator = torch.Generator(device="cuda").manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(
                parameter.shape, dtype=parameter.dtype, device=parameter.device, generator=generator
            )
            parameter.add_(noise, alpha=scale)
    torch.cuda.synchronize()
