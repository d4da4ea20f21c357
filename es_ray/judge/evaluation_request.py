"""What `es-ray evaluate` is asked: which prompts of which task, and how they are answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from es_ray.config import Config
from es_ray.config.loading import as_tree
from es_ray.config.tree import flat
from es_ray.errors import UserError
from es_ray.experiment import SPLITS, Experiment
from es_ray.judge.evaluate import Weights
from es_ray.runs.past_run import PastRun
from es_ray.tasks.data import own_data

DRAWN: Final = {"task.batch": None, "task.batch_by": "generation"}
GREEDY: Final = {"task.samples": 1, "task.temperature": 0.0, "task.top_p": 1.0}


@dataclass(frozen=True)
class EvaluationRequest:
    """Prompts and sampling; None, False and empty for what the run itself was asked.

    split: train, test or validation; data: a file, or hf:NAME:SPLIT, instead of one; task: another task on
    the same adapters, with its own data unless others are given; sets: "task.key=value" each; greedy: no
    sampling; samples, temperature: of each prompt. Raises UserError for what does not go together.
    """

    split: str | None = None
    data: str | None = None
    task: str | None = None
    sets: Sequence[str] = ()
    samples: int | None = None
    temperature: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise UserError(f"--split {self.split}: must be one of {', '.join(SPLITS)}")
        if self.split is not None and self.data is not None:
            raise UserError(
                f"--data {self.data}: is asked instead of a split; leave out --split {self.split}"
            )
        if self.samples is not None and self.samples < 1:
            raise UserError(f"--samples {self.samples}: must be at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise UserError(
                f"--temperature {self.temperature:g}: must be above 0; --greedy takes the likeliest tokens"
            )
        if self.greedy and (self.samples is not None or self.temperature is not None):
            given = "--samples" if self.samples is not None else "--temperature"
            raise UserError(f"--greedy: samples nothing; leave out {given}")

    @property
    def asks_other_prompts(self) -> bool:
        """Whether the examples are not those that the run has read."""
        return self.data is not None or self.task is not None or bool(self.sets)

    def config(self, recorded: Config) -> Config:
        """The run's configuration with what is asked instead; raises UserError."""
        sets = flat(as_tree(self.sets))
        for key in sets:
            if not key.startswith("task."):
                raise UserError(f"--set {key}: only keys of task can be changed for an evaluation")
            if key in DRAWN:
                raise UserError(f"--set {key}: an evaluation draws no batch; it asks all examples of a split")
            if self.greedy and key in GREEDY:
                raise UserError(f"--greedy: samples nothing; leave out --set {key}")
        values: dict[str, Any] = {}
        if self.asks_other_prompts:  # nothing is drawn from them
            values |= DRAWN
        if self.task is not None:
            values["task.options"] = {}
        if self.task is not None or self.data is not None:
            values |= dict.fromkeys(("task.train", "task.test", "task.validation"))
        flags = {
            "task.name": self.task,
            "task.train": self.data,
            "task.test": self.data,
            "task.samples": self.samples,
            "task.temperature": self.temperature,
        }
        # a flag overrides --set, as for a run; together, as one may need another
        values |= sets | {key: value for key, value in flags.items() if value is not None}
        if self.greedy:
            values |= GREEDY
        self._check_sampling(recorded, values)
        return recorded.replace(**{key.replace(".", "__"): value for key, value in values.items()})

    def _check_sampling(self, recorded: Config, values: Mapping[str, Any]) -> None:
        """Raise UserError where greedy answers do not go with what is sampled, naming what was asked for."""
        task = {name: getattr(recorded.task, name.removeprefix("task.")) for name in GREEDY}
        samples, temperature, top_p = ({**task, **values}[name] for name in GREEDY)
        if temperature != 0:
            return
        if self.samples is not None and samples > 1:
            raise UserError(
                f"--samples {samples}: greedy completions of a prompt would be the same; "
                "set --temperature above 0"
            )
        if "task.temperature" not in values:
            return
        # set for a run that sampled, whose other settings nobody named
        for name, value, greedy in (("task.samples", samples, 1), ("task.top_p", top_p, 1.0)):
            if name not in values and value != greedy:
                raise UserError(
                    f"--set task.temperature={temperature}: the run has {name} {value:g}, which samples; "
                    "--greedy takes the likeliest tokens"
                )

    def experiment(self, past: PastRun, config: Config) -> Experiment:
        """The run's experiment with the configuration of `config`, and other examples where they are asked.

        Raises UserError for data that cannot be read, or asked.
        """
        split = self.split or "test"
        if not self.asks_other_prompts:
            experiment = past.experiment.with_config(config)
        else:
            experiment = past.experiment.with_other_data(config, split)
            given = getattr(config.task, split)
            if self.task is not None and given is None and own_data(experiment.task, split) is None:
                raise UserError(f"--task {self.task}: has no {split} data of its own; name some with --data")
            experiment.check()
        if split not in experiment.examples:
            raise UserError(f"--split {split}: must be train or test; task.{split} is not set")
        return experiment


def parsed_members(names: Sequence[str], past: PastRun) -> list[Weights]:
    """Members named as generation:index; raises UserError for those that the run does not have."""
    found = []
    generations, population = past.run.complete_generations(), past.config.evolution.population
    for name in names:
        first, colon, second = name.partition(":")
        if not (colon and first.isdecimal() and second.isdecimal()):
            raise UserError(f"--member {name}: must be GENERATION:INDEX, two whole numbers")
        weights = Weights(int(first), int(second))
        if weights.generation not in generations:
            there = f"{generations[0]}-{generations[-1]}"
            raise UserError(f"--member {name}: {past.run.path} has generations {there}")
        if weights.member >= population:
            raise UserError(f"--member {name}: the population has members 0-{population - 1}")
        found.append(weights)
    return found
