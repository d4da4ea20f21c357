"""The configuration: its keys, what they may be, and where values come from.

A flag beats `--set`, which beats the file, which beats the preset. Anything unknown or impossible is a
UserError of one line that names the key, the value and what is allowed.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from es_ray.errors import UserError
from es_ray.tasks import TASKS

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET = "tiny-chat"
BUNDLED = "bundled"
RESUMABLE = ("evolution.generations", "cluster.", "output.", "tracking.")
"""Keys, or sections with a final dot, that a resumed run may change: none of them alters a byte."""

MOST_LAYERS = 10_000

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of the configuration: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("must not be a truth value")
        return value


class ModelConfig(Section):
    """The model to evolve: `bundled`, a local folder, or a name on the Hugging Face hub."""

    path: str = BUNDLED
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class LoraConfig(Section):
    """The adapters: rank, scaling alpha / rank, and which linear layers carry one."""

    rank: Annotated[int, Field(ge=1, le=256)] = 1
    alpha: Positive = 2.0
    layers: str = "all"
    target_modules: Annotated[list[str], Field(min_length=1)] = [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip

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
    """Initial A and B: normal with standard deviation std x scale; mode `population` starts at theta = 0."""

    std: Positive = 0.02
    scale: Positive = 1.0
    b: Literal["normal", "zeros"] = "normal"
    mode: Literal["centre", "population"] = "centre"

    @model_validator(mode="after")
    def _population_needs_b(self) -> "InitConfig":
        if self.mode == "population" and self.b == "zeros":
            raise ValueError("b: zeros with mode: population would make every member the base model")
        return self


class NoiseConfig(Section):
    """The perturbations' scale: multiplier x fraction x mean|W| of a layer or module, or std (`constant`)."""

    kind: Literal["per-layer", "per-module", "constant"] = "per-layer"
    fraction: Positive = 0.1
    multiplier: Positive = 22.0
    std: Positive = 0.001


class EvolutionConfig(Section):
    """Population, steps and noise. The seed decides everything that is random."""

    population: Annotated[int, Field(ge=2, le=1_000_000)] = 30
    generations: Count = 50
    learning_rate: Positive = 0.05
    shaping: Literal["zscore", "centered-rank", "none"] = "zscore"
    update_scale: Literal["absolute", "sigma"] = "absolute"
    antithetic: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise: NoiseConfig = NoiseConfig()

    @model_validator(mode="after")
    def _even_pairs(self) -> "EvolutionConfig":
        if self.antithetic and self.population % 2:
            raise ValueError(f"population: {self.population} is odd, antithetic pairs need an even one")
        return self


class TaskConfig(Section):
    """The task and its examples: JSONL files of {prompt, target}, or none for the task's own."""

    name: str = "conciseness"
    train: str | None = None
    test: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 64

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TASKS:
            raise ValueError(f"must be one of {', '.join(TASKS)}")
        return value


class EvaluationConfig(Section):
    """How often, in generations, the centre also answers the test questions."""

    every: Count = 1


class EngineConfig(Section):
    """What generates. shard: candidates in one batch; threads: CPU threads of an engine."""

    kind: Literal["auto", "transformers", "sglang"] = "auto"
    shard: Count = 16
    threads: Count = 1
    deterministic: bool = False
    tensor_parallel: Count = 1
    sglang: dict[str, Any] = {}


class ClusterConfig(Section):
    """Where it runs. workers 0: in this process, without Ray; auto: 0 without a GPU, else one for each.

    placement: pack engines onto few nodes, or spread them; wait_timeout: seconds to wait for a worker where
    there is none; start_timeout, shard_timeout: seconds that an engine may take to start, and a shard to be
    evaluated; heartbeat: seconds of silence after which a worker is given up; max_attempts: workers that one
    shard, and one start, may cost before the run stops.
    """

    workers: Annotated[int, Field(ge=0, le=100_000)] | Literal["auto"] = "auto"
    address: str | None = None
    placement: Literal["pack", "spread"] = "pack"
    wait_timeout: Positive = 600.0
    start_timeout: Positive = 1800.0
    shard_timeout: Positive = 1800.0
    heartbeat: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 30.0
    max_attempts: Count = 3

    @field_validator("workers", mode="before")
    @classmethod
    def _workers(cls, value: object) -> object:
        if value != "auto" and not (isinstance(value, int) and value >= 0):
            raise ValueError("must be a whole number of at least 0, or auto")
        return value


class OutputConfig(Section):
    """The run directory. keep: whole generations kept (none: all); the rest: how often, in generations."""

    dir: str | None = None
    keep: Count | None = None
    plots_every: Count = 1
    adapters_every: Count = 1


class TrackingConfig(Section):
    """Trackers beside the files of the run directory: there are none yet."""


class Config(Section):
    """A run. The defaults are those of the bundled model."""

    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    init: InitConfig = InitConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    task: TaskConfig = TaskConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig = OutputConfig()
    tracking: TrackingConfig = TrackingConfig()

    def replace(self, **values: Any) -> "Config":
        """A copy with some dotted keys changed, `__` standing for the dot: `replace(evolution__seed=1)`."""
        tree = self.model_dump()
        for key, value in values.items():
            _put(tree, key.split("__"), value)
        return parse(tree)

    def to_yaml(self) -> str:
        """The configuration as YAML; `load(file=...)` of it gives the same configuration."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


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
            raise ValueError(f"layer {high or low} is more than any model has; at most {MOST_LAYERS - 1}")
        numbers.update(range(int(low), int(high or low) + 1))
    return sorted(numbers)


def preset_names() -> list[str]:
    """The presets that come with es-ray."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load(
    file: Path | None = None,
    preset: str | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a command: preset, then file, then `section.key=value` sets, then flags."""
    tree: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise UserError(f"--preset {preset}: no such preset; there are {', '.join(preset_names())}")
        tree = _read_yaml(PRESETS_DIR / f"{preset}.yaml")
    if file is not None:
        tree = _merge(tree, _read_yaml(file))
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {item}: must be section.key=value")
        try:
            _put(tree, key.strip().split("."), yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(f"--set {item}: the value is not valid YAML") from error
    for key, value in (flags or {}).items():
        if value is not None:
            _put(tree, key.split("."), value)
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Config:
    """A tree of plain values as a configuration; raises UserError that names the first offending key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError(_one_line(error)) from None


def differences(old: Config, new: Config) -> list[str]:
    """Dotted keys in which two configurations differ, those aside that a resumed run may change."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    return [
        f"{key} ({before.get(key)!r} there, {after.get(key)!r} now)"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(RESUMABLE)
    ]


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: sections such as 'evolution:' are wanted at the top")
    return tree


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        mine = merged.get(key)
        merged[key] = _merge(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return merged


def _put(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    for key in path[:-1]:
        inner = tree.get(key)
        tree[key] = dict(inner) if isinstance(inner, dict) else {}
        tree = tree[key]
    tree[path[-1]] = value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and bool(value)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _one_line(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _flat(Config().model_dump())
        section = ".".join(key.split(".")[:-1])
        inside = [k for k in known if not section or k.startswith(section + ".")]
        near = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
        allowed = near or (inside if section else list(Config.model_fields))
        text = f"{key}: unknown key; {'did you mean' if near else 'there are'} {_listed(allowed)}"
    else:
        reason = problem["msg"].removeprefix("Value error, ")
        value = problem["input"]
        shown = "" if isinstance(value, (dict, BaseModel)) else f" {value!r} is not allowed:"
        text = f"{key}:{shown} {reason[0].lower()}{reason[1:]}"
    others = len({e["loc"][:2] for e in error.errors()}) - 1
    return text + (f" (and {others} more)" if others else "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
