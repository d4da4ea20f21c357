"""The section about noise: its keys, checked against each other."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from es_ray.config.fields import Positive, Section
from es_ray.config.noise import ALL, AUTO, KEYS, default, kind_of, set_keys
from es_ray.config.schedule import ScheduleConfig


class NoiseConfig(Section):
    """The perturbations' scale.

    relative: the size of a member's change of a matrix, as a share of it (see `lora.scales`), or auto: a run
    finds it at its start. multiplier x
    fraction x mean|W| of a layer or module (`per-layer`, `per-module`); or std (`constant`). Without a kind,
    multiplier and fraction mean `per-layer`, std means `constant`. A key of another kind is an error: it
    would have no effect. Those of the kind that are None get their values in a `Config`. schedule: what
    multiplies that scale in each generation.
    """

    kind: Literal["relative", "per-layer", "per-module", "constant"] = "relative"
    relative: Positive | Literal["auto"] | None = None
    fraction: Positive | None = None
    multiplier: Positive | None = None
    std: Positive | None = None
    schedule: ScheduleConfig = ScheduleConfig()

    @field_validator("relative", mode="before")
    @classmethod
    def _relative(cls, value: object) -> object:
        if value in (None, AUTO):
            return value
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = 0.0
        if not 0 < number < float("inf"):
            raise ValueError("must be a number greater than 0, or auto")
        return value

    @model_validator(mode="before")
    @classmethod
    def _of_one_kind(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = set_keys(values)
        kind = kind_of(given)
        own = KEYS.get(kind) if isinstance(kind, str) else None
        if own is None:
            return values
        for key in ALL:
            if key in given and key not in own:
                kinds = " or ".join(other for other, keys in KEYS.items() if key in keys)
                raise ValueError(
                    f"{key}: {given[key]} has no effect on noise of kind {kind}; it is for {kinds}"
                )
        return given | {"kind": kind}

    def completed(self, form: str, path: str) -> "NoiseConfig":
        """With defaults for the kind's keys that are not set, which still count as not set."""
        noise = self.model_copy()
        for key in KEYS[self.kind]:
            if getattr(self, key) is None:
                noise.__dict__[key] = default(key, form, path)  # not by `update`, which would set it
        return noise

    @model_validator(mode="after")
    def _never_without_noise(self) -> "NoiseConfig":
        if self.schedule.to == 0:
            raise ValueError("schedule.to: 0 would make every member the centre; must be greater than 0")
        return self
