"""The section of a schedule: of the learning rate, and of the noise."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from es_ray.config.fields import Count, Section

FORMS = "constant, or {kind: linear or cosine, to: FACTOR, over: GENERATIONS}"


class ScheduleConfig(Section):
    """A value over the generations: `constant`, or {kind, to, over}.

    From 1 x to `to` x the start value over so many generations, then held. The total of generations has no
    influence, so that extending a run does not change its past.
    """

    kind: Literal["constant", "linear", "cosine"] = "constant"
    to: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    over: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, str):
            return {"kind": values}
        if values is not None and not isinstance(values, (dict, cls)):
            raise ValueError(f"must be {FORMS}")
        return values

    @model_validator(mode="after")
    def _complete(self) -> "ScheduleConfig":
        for key in ("to", "over"):
            value = getattr(self, key)
            if self.kind == "constant" and value is not None:
                raise ValueError(
                    f"{key}: {value} has no effect on a constant schedule; set kind to linear or cosine"
                )
            if self.kind != "constant" and value is None:
                raise ValueError(f"{key}: must be set for kind {self.kind}: a schedule is {FORMS}")
        return self
