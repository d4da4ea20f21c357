"""Inference engines that evaluate populations of LoRA members. One folder per kind."""

from typing import TYPE_CHECKING

from es_ray.engines.registry import engine_spec

if TYPE_CHECKING:  # commands read the registry without loading a model
    from es_ray.engines.base import Engine
    from es_ray.experiment import Experiment


def create_engine(experiment: "Experiment") -> "Engine":
    """The engine of the configured kind, with the model's weights loaded."""
    return engine_spec(experiment.config.engine.kind).load(experiment)
