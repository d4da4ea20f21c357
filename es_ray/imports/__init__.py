"""A user's own code: objects by import path, and how it gets into processes that cannot see its files."""

from es_ray.imports.resolving import absolute, instance_of, is_import_path, resolve, short_name
from es_ray.imports.user_files import forget_changed

__all__ = ["absolute", "forget_changed", "instance_of", "is_import_path", "resolve", "short_name"]
