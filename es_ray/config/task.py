"""The sections about the task: its data, what is drawn from them, and how it is asked."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from es_ray.config.fields import Count, Positive, Section


class ColumnsConfig(Section):
    """The fields of a row that hold the prompt, the target and the chat's messages."""

    prompt: str = "prompt"
    target: str = "target"
    messages: str = "messages"

    @model_validator(mode="after")
    def _distinct(self) -> "ColumnsConfig":
        names = [self.prompt, self.target, self.messages]
        if len(set(names)) < len(names):
            raise ValueError("prompt, target and messages must be three different fields")
        return self


class TaskConfig(Section):
    """The task, its data, and how completions are sampled.

    name: a name in es_ray.tasks or of an entry point, package.module:attribute, or path/to/file.py:attribute;
    options: keyword arguments of the task; train, test, validation: data files, or hf:NAME[@CONFIG]:SPLIT;
    None for the task's own. batch: training examples drawn for each generation (None: all; auto: 32, or all
    where there are no more); batch_by: the same for all members, or other ones for each antithetic pair.
    samples: completions for each prompt; temperature 0 is greedy. timeout: seconds that a score may take;
    processes: of a worker that compute scores (0: none).
    """

    name: str = "conciseness"
    options: dict[str, Any] = {}
    train: str | None = None
    test: str | None = None
    validation: str | None = None
    columns: ColumnsConfig = ColumnsConfig()
    system_prompt: str | None = None
    batch: Count | Literal["auto"] | None = "auto"
    batch_by: Literal["generation", "member"] = "generation"
    samples: Annotated[int, Field(ge=1, le=10_000)] = 1
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 64
    timeout: Positive = 60.0
    processes: Annotated[int, Field(ge=0, le=1024)] = 0

    @field_validator("options")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not str(name).isidentifier():
                raise ValueError(f"{name!r} is no name of an argument")
        return value

    @field_validator("batch", mode="before")
    @classmethod
    def _batch(cls, value: object) -> object:
        if value is not None and value != "auto" and not (isinstance(value, int) and value >= 1):
            raise ValueError("must be a whole number of at least 1, auto, or null for all")
        return value

    @model_validator(mode="after")
    def _fit(self) -> "TaskConfig":
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples: {self.samples} greedy completions of a prompt would be the same; "
                "set temperature above 0"
            )
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(f"top_p: {self.top_p:g} has no effect at temperature 0")
        if self.batch_by == "member" and not isinstance(self.batch, int):
            raise ValueError("batch_by: member needs a batch to draw for each pair")
        return self

    @property
    def answers_are_comparable(self) -> bool:
        """Whether members answer the same prompts greedily: only their weights make answers differ."""
        return self.temperature == 0 and self.batch_by == "generation"


class EvaluationConfig(Section):
    """How often, in generations, the centre also answers the test prompts, and the validation prompts.

    examples: how many of each are asked during a run, the first ones of the file (None: all). kl_every: how
    often the centre's KL to the base model is measured, on the first 16 of the validation prompts, or of the
    generation's training prompts (None: never).
    """

    every: Count = 1
    examples: Count | None = None
    kl_every: Count | None = 10
