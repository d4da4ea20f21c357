"""A model's files, and what is known about it before its weights are loaded."""

from es_ray.models.source import ModelSource, looks_local

__all__ = ["ModelSource", "looks_local"]
