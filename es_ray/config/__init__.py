"""The configuration: its sections, where values come from, and presets."""

from es_ray.config.guard import GuardConfig
from es_ray.config.loading import (
    DEFAULT_PRESET,
    GENERAL_PRESET,
    RESUMABLE,
    changed_bytes,
    differences,
    load,
    preset_names,
)
from es_ray.config.model import BUNDLED, InitConfig, LoraConfig, ModelConfig, layer_numbers
from es_ray.config.origin import noise_origin
from es_ray.config.schedule import ScheduleConfig
from es_ray.config.sections import ClusterConfig, Config, EngineConfig, EvolutionConfig, NoiseConfig
from es_ray.config.task import ColumnsConfig, EvaluationConfig, TaskConfig

__all__ = [
    "BUNDLED",
    "DEFAULT_PRESET",
    "GENERAL_PRESET",
    "RESUMABLE",
    "ClusterConfig",
    "ColumnsConfig",
    "Config",
    "EngineConfig",
    "EvaluationConfig",
    "EvolutionConfig",
    "GuardConfig",
    "InitConfig",
    "LoraConfig",
    "ModelConfig",
    "NoiseConfig",
    "ScheduleConfig",
    "TaskConfig",
    "changed_bytes",
    "differences",
    "layer_numbers",
    "load",
    "noise_origin",
    "preset_names",
]
