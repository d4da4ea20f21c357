"""The update rule and the schedules that a configuration's `evolution` section names."""

from es_ray.config import EvolutionConfig, ScheduleConfig
from es_ray.errors import UserError
from es_ray.evolution.optimizers import OPTIMIZERS, Optimizer
from es_ray.evolution.schedules import CONSTANT, Schedule
from es_ray.imports import instance_of, resolve

OPTIMIZER_KEYS = ("momentum", "beta1", "beta2", "eps")
"""Keys of the `evolution` section that only some optimizers take."""


def configured_optimizer(evolution: EvolutionConfig) -> Optimizer:
    """The update rule; raises UserError for an unknown name, and for a key that it does not take."""
    rule = resolve("evolution.optimizer", evolution.optimizer, OPTIMIZERS)
    given = {key: getattr(evolution, key) for key in OPTIMIZER_KEYS}
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        options = getattr(rule, "options", ())
        if key not in options:
            takes = f"it takes {', '.join(options)}" if options else "it takes none of these keys"
            chosen = f"the optimizer {evolution.optimizer}"
            raise UserError(f"evolution.{key}: {value!r} has no effect on {chosen}; {takes}")
    name = evolution.optimizer
    return instance_of(Optimizer, "evolution.optimizer", name, rule, given)  # type: ignore[type-abstract]


def configured_schedule(config: ScheduleConfig) -> Schedule:
    """The schedule of a value."""
    if config.to is None or config.over is None:  # which only a constant one may leave out
        return CONSTANT
    return Schedule(config.kind, config.to, config.over)
