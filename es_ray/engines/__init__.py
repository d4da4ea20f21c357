"""Inference engines that evaluate populations of LoRA members. Each kind is one folder."""

from es_ray.engines.base import Engine
from es_ray.experiment import Experiment


def create_engine(experiment: Experiment) -> Engine:
    """The engine of the configured kind, with the model's weights loaded."""
    if experiment.config.engine.kind == "sglang":
        from es_ray.engines.sglang.engine import SGLangEngine

        return SGLangEngine(experiment)
    from es_ray.engines.hf.engine import TransformersEngine

    return TransformersEngine(experiment)
