"""The sections about the model and what is evolved of it: the adapters and their initial values."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from es_ray.config.fields import Positive, Section

BUNDLED = "bundled"
MOST_LAYERS = 10_000


class ModelConfig(Section):
    """The model to evolve: `bundled`, a local folder, or a name on the Hugging Face hub.

    chat: whether prompts go through the chat template (auto: if the tokenizer has one); chat_template_kwargs:
    further arguments of the template, such as enable_thinking.
    """

    path: str = BUNDLED
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    chat: Literal["auto", "always", "never"] = "auto"
    chat_template_kwargs: dict[str, Any] = {}


class LoraConfig(Section):
    """The adapters: rank, scaling alpha / rank, which linear layers have one, and what of it evolves.

    form: `both`, A and B; `b`, B alone, from zero: A is random, with rows of length 1, and fixed; `merged`
    (EGGROLL, arXiv 2511.16652): members have fresh A and B, updates are added to the model's weights, and
    alpha has no part in it: a member is W + sigma / sqrt(rank) * B A.
    """

    rank: Annotated[int, Field(ge=1, le=256)] = 1
    alpha: Positive = 2.0
    layers: str = "all"
    target_modules: Annotated[list[str], Field(min_length=1)] = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    form: Literal["both", "b", "merged"] = "b"

    @field_validator("layers", mode="before")
    @classmethod
    def _layers(cls, value: object) -> str:
        text = str(value)
        layer_numbers(text)
        return text

    @field_validator("target_modules")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("must name each module once")
        return value


class InitConfig(Section):
    """Initial A and B: normal with standard deviation std x scale; mode `population` starts at theta = 0.

    All for lora.form `both`: the other forms' initial values are what they are.
    """

    std: Positive = 0.02
    scale: Positive = 1.0
    b: Literal["normal", "zeros"] = "normal"
    mode: Literal["centre", "population"] = "centre"

    @model_validator(mode="after")
    def _population_needs_b(self) -> "InitConfig":
        if self.mode == "population" and self.b == "zeros":
            raise ValueError("b: zeros with mode: population would make every member the base model")
        return self


def layer_numbers(text: str) -> list[int] | None:
    """Layers of "0-9" or "0,2,5", ascending; None for "all". Raises ValueError for anything else."""
    if text == "all":
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdecimal() or (high and not high.isdecimal()) or "-" in part and not high:
            raise ValueError('must be "all", a range such as "0-9" or a list such as "0,2,5"')
        if high and int(high) < int(low):
            raise ValueError(f"range {part.strip()} runs backwards")
        if int(high or low) >= MOST_LAYERS:
            raise ValueError(f"layer {high or low} is too large; at most {MOST_LAYERS - 1} is allowed")
        numbers.update(range(int(low), int(high or low) + 1))
    return sorted(numbers)
