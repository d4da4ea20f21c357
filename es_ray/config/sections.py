"""The configuration: the sections about evolution, engines, cluster and output, and all of them as one."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from es_ray.config.fields import Count, Positive, Section
from es_ray.config.format import FORMAT
from es_ray.config.guard import GuardConfig
from es_ray.config.messages import one_line
from es_ray.config.model import InitConfig, LoraConfig, ModelConfig
from es_ray.config.noise import layered
from es_ray.config.noise_section import NoiseConfig
from es_ray.config.schedule import ScheduleConfig
from es_ray.config.task import EvaluationConfig, TaskConfig
from es_ray.config.tracking import TrackingConfig
from es_ray.config.tree import flat, put
from es_ray.errors import UserError


class EvolutionConfig(Section):
    """Population, steps and noise. The seed determines everything random.

    optimizer: a name in es_ray.evolution.optimizers, or an import path; momentum, beta1, beta2, eps: for
    optimizers that take them, with the optimizer's own default if unset. weight_decay: the share of its way
    from the initial values that the centre goes back in each step. prompt_normalization: zscore gives each
    prompt the same weight. tie_correction, min_spread: shorter steps where rewards tell members hardly apart
    (`es_ray.evolution.fitness`); min_spread is in the reward's units.
    """

    population: Annotated[int, Field(ge=2, le=1_000_000)] = 30
    generations: Count = 50
    learning_rate: Positive = 1.0
    learning_rate_schedule: ScheduleConfig = ScheduleConfig()
    optimizer: str = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    eps: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shaping: Literal["zscore", "centered-rank", "none"] = "zscore"
    prompt_normalization: Literal["none", "zscore"] = "none"
    tie_correction: bool = False
    min_spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    update_scale: Literal["absolute", "sigma"] = "sigma"
    antithetic: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    noise: NoiseConfig = NoiseConfig()

    @model_validator(mode="after")
    def _even_pairs(self) -> "EvolutionConfig":
        if self.antithetic and self.population % 2:
            raise ValueError(f"population: {self.population} is odd, antithetic pairs need an even one")
        return self

    @model_validator(mode="after")
    def _shaping_that_shortens(self) -> "EvolutionConfig":
        for key in ("tie_correction", "min_spread"):
            value = getattr(self, key)
            if self.shaping == "none" and value:
                raise ValueError(
                    f"{key}: {value} has no effect on shaping none, which keeps the rewards' scale"
                )
        return self


class EngineConfig(Section):
    """The engine. kind: auto, a name in es_ray.engines.registry, or the import path of an EngineSpec.

    shard: candidates that a worker is given at once; rows: completions that an engine makes at once, which
    may be fewer than those of a shard; threads: CPU threads of an engine, auto: this machine's cores,
    whatever the number of workers; processes: in which a run of the transformers engine without Ray and GPU
    generates under Linux with threads 1, a shard in each at the same time, auto: as many as there are cores.
    """

    kind: str = "auto"
    shard: Count = 16
    rows: Count | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    processes: Count | Literal["auto"] = 1
    deterministic: bool = False
    tensor_parallel: Count = 1
    sglang: dict[str, Any] = {}

    @field_validator("rows", "threads", "processes", mode="before")
    @classmethod
    def _count_or_auto(cls, value: object) -> object:
        if value != "auto" and not (isinstance(value, int) and value >= 1):
            raise ValueError("must be a whole number of at least 1, or auto")
        return value

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its completion together by `engine.sglang`; None if it does not say."""
        given = self.sglang.get("context_length") if self.kind == "sglang" else None
        return given if isinstance(given, int) else None

    @property
    def reserved_positions(self) -> int:
        """Positions of a context that the engine keeps free.

        SGLang 0.5.17 and 0.5.23 refuse prompts of all but 6, and end answers, unsaid, two before the last.
        """
        return 6 if self.kind == "sglang" else 0


class ClusterConfig(Section):
    """Where a run executes. workers 0: in this process, without Ray; auto: 0 without a GPU, else one per GPU.

    placement: pack engines onto few nodes, or spread them; wait_timeout: seconds to wait for a worker if none
    is left; start_timeout, shard_timeout: seconds that an engine may take to start, and to evaluate a shard;
    heartbeat: seconds of silence after which a worker counts as lost; max_attempts: workers that one shard,
    or one start, may fail on before the run stops.
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
    """The run directory. keep: generations kept complete (None: all); the rest: how often, in generations.

    plots_every: None draws none, and writes no report; populations_every: how often the members' completions
    are written; their rewards and metrics always are; checkpoint_every: how often, in form `merged`, the sum
    of all changes of the weights is written too, from which workers then start a replay (None: never).
    """

    dir: str | None = None
    keep: Count | None = 100
    plots_every: Count | None = 1
    adapters_every: Count = 1
    populations_every: Count = 1
    checkpoint_every: Count | None = None


class Config(Section):
    """The configuration of a run. The defaults suit any model; the bundled one has a preset of its own."""

    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    init: InitConfig = InitConfig()
    evolution: EvolutionConfig = EvolutionConfig()
    task: TaskConfig = TaskConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    guard: GuardConfig = GuardConfig()
    engine: EngineConfig = EngineConfig()
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig = OutputConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _complete_noise(self) -> "Config":
        noise = self.evolution.noise.completed(self.lora.form, self.model.path)
        self.__dict__["evolution"] = self.evolution.model_copy(update={"noise": noise})
        return self

    @model_validator(mode="after")
    def _prompts_fit_the_update(self) -> "Config":
        if self.task.batch_by == "member" and not self.evolution.antithetic:
            raise ValueError("task.batch_by: member draws for each pair; set evolution.antithetic=true")
        normalization = self.evolution.prompt_normalization
        if self.task.batch_by == "member" and normalization != "none":
            raise ValueError(
                f"evolution.prompt_normalization: {normalization} compares all members on the same prompts, "
                "but task.batch_by: member gives each pair its own; use none, or batch_by: generation"
            )
        return self

    @model_validator(mode="after")
    def _steps_into_weights(self) -> "Config":
        """Form `merged` keeps no optimizer's state beside the weights, and steps in units of sigma."""
        if self.lora.form != "merged":
            return self
        evolution = self.evolution
        if evolution.optimizer != "sgd":
            raise ValueError(
                f"evolution.optimizer: {evolution.optimizer} keeps a state of the size of the weights; "
                "lora.form merged takes sgd"
            )
        if evolution.update_scale != "sigma":
            raise ValueError(
                f"evolution.update_scale: {evolution.update_scale} has no meaning for lora.form merged; "
                "set sigma"
            )
        return self

    @model_validator(mode="after")
    def _kl_to_limit(self) -> "Config":
        if self.guard.max_kl is not None and self.evaluation.kl_every is None:
            raise ValueError(
                f"guard.max_kl: {self.guard.max_kl:g} has no effect where no KL is measured; "
                "set evaluation.kl_every"
            )
        return self

    def replace(self, **values: Any) -> "Config":
        """A copy with some dotted keys changed, with `__` for the dot: `replace(evolution__seed=1)`."""
        tree, changes = self.model_dump(), dict[str, Any]()
        noise = self.evolution.noise.model_dump(exclude_unset=True)  # defaults follow what is changed
        for key, value in values.items():
            put(tree, key.split("__"), value)
            put(changes, key.split("__"), value)
        changed = changes.get("evolution", {}).get("noise", {})
        tree["evolution"]["noise"] = layered(noise, changed)
        return Config.parse(tree)

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> "Config":
        """A configuration from plain values; raises UserError that names the first offending key."""
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise UserError(one_line(error, flat(cls().model_dump()), cls.model_fields)) from None

    def to_yaml(self) -> str:
        """The configuration as YAML; `load(file=...)` of it gives the same configuration."""
        tree = {"format": FORMAT} | self.model_dump()
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
