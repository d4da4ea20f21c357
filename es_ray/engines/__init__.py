"""Inference engines that evaluate populations of LoRA members. Each kind is one folder."""

from es_ray.engines.base import Engine
from es_ray.experiment import Experiment


def create_engine(experiment: Experiment) -> Engine:
    """The engine of the configured kind, with the model's weights loaded."""
    from es_ray.engines.hf.engine import TransformersEngine

    return TransformersEngine(experiment)
