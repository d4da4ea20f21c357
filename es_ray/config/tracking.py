"""The section about trackers: where a run is recorded beside its own directory. No result depends on it."""

from typing import Literal

from pydantic import field_validator

from es_ray.config.fields import Count, Section


class WandbConfig(Section):
    """Weights & Biases: with a project, a run is recorded there.

    name: the run's, that of its directory if unset; mode: as WANDB_MODE, which it overrides; without both,
    and without an API key, offline.
    """

    project: str | None = None
    entity: str | None = None
    name: str | None = None
    mode: Literal["online", "offline"] | None = None


class TrackingConfig(Section):
    """Trackers.

    tensorboard: true for the folder `tensorboard` of the run directory, or a folder of this machine, in which
    each run has one of its name; completions_every: generations between two tables of completions, and two
    images.
    """

    tensorboard: bool | str = False
    wandb: WandbConfig = WandbConfig()
    completions_every: Count = 10

    @field_validator("tensorboard")
    @classmethod
    def _named(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and (not value.strip() or "://" in value):
            raise ValueError("must be true, false or a folder of this machine")
        return value
