"""A past run, from which any member and centre can be rebuilt without loading weights."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from es_ray.config import Config
from es_ray.engines.base import EngineInfo, same_weights
from es_ray.errors import RunError, UserError
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import Strategy
from es_ray.experiment import Experiment
from es_ray.imports import short_name
from es_ray.lora.peft_files import AdapterWriter
from es_ray.models import ModelSource
from es_ray.models.files import weight_digests
from es_ray.runs.cards import how_to_load
from es_ray.runs.replay import centre_after, has_exact_replay, missing_updates
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PastRun:
    """A run at one of its generations, with what its configuration and recorded states define."""

    run: RunDir
    config: Config
    experiment: Experiment
    strategy: Strategy
    generation: int

    def centre(self) -> Vector:
        """The centre after the generation's update, shape [P]."""
        return centre_after(self.run, self.strategy, self.generation)

    def centre_before(self) -> Vector:
        """The centre that the generation's members start from, shape [P]."""
        return centre_after(self.run, self.strategy, self.generation - 1)

    def member(self, index: int) -> Vector:
        """A member of the generation, shape [P]; raises UserError for an index outside the population."""
        population = self.config.evolution.population
        if not 0 <= index < population:
            raise UserError(f"--index {index}: the population has members 0-{population - 1}")
        return self.strategy.perturbation.member(self.centre_before(), self.generation, index)

    def check_weights(self, info: EngineInfo | None = None) -> None:
        """Raise RunError if the model has other weights than the one that was evolved.

        info: as for the function of that name.
        """
        check_weights(self.run, self.generation, self.experiment.source, info)

    def check_files(self, folder: Path) -> None:
        """Raise RunError unless a model's folder has the weights that were evolved, by its files alone.

        Where no digests were recorded, as the files were not on the driver's machine, any folder passes.
        """
        both = _check_digests(self.run, self.generation, weight_digests(folder))
        if not both and self.run.generation_folder(self.generation).weights:
            raise RunError(f"{self.run.path} was started on other weight files than {folder} has")

    def rebuilt_note(self, index: int | None) -> str | None:
        """How a member, or the centre (None), differs from the engine's own; None where it does not."""
        if has_exact_replay(self.run):
            return None
        engine = short_name(self.config.engine.kind)
        noise = f"computed by NumPy, whose noise is within 1e-5 of that of {engine}"
        start = self.generation if index is None else self.generation - 1
        if missing_updates(self.run, start)[1]:
            which = "it" if index is None else "the centre before it"
            return f"{noise}; {which} had been pruned, and is close to the recorded one, not equal"
        return None if index is None else noise

    def how_to_load(self) -> str:
        """The end of an adapter's card."""
        dtype = self.run.generation_folder(self.generation).dtype
        return how_to_load(self.experiment.source.path, dtype, self.config.lora.form)

    def writer(self) -> AdapterWriter:
        """Writes vectors as adapters of the run's model."""
        source = self.experiment.source
        return AdapterWriter(self.experiment.layout, source.path, source.revision)


def check_weights(run: RunDir, generation: int, source: ModelSource, info: EngineInfo | None) -> None:
    """Raise RunError if the model's weights are not those that were recorded with a generation.

    Compares digests of the files that both have or, without any, mean|W| and ||W||_F if both have them.
    info: what an engine reports of itself; None where none has loaded the weights.
    """
    recorded = run.generation_folder(generation)
    both = _check_digests(run, generation, source.weight_digests)
    if info is not None and recorded.dtype not in (None, info.dtype):
        log.warning(
            "%s was made in %s, and this is %s: bytes may differ", run.path, recorded.dtype, info.dtype
        )
    if both or info is None:
        return
    if not same_weights(recorded.mean_abs, info.mean_abs):  # other files may hold the same weights
        raise RunError(f"{run.path} was started on a model with other weights: mean|W| differs")
    if recorded.frobenius and info.frobenius and not same_weights(recorded.frobenius, info.frobenius):
        raise RunError(f"{run.path} was started on a model with other weights: ||W||_F differs")


def _check_digests(run: RunDir, generation: int, digests: Mapping[str, str]) -> list[str]:
    """The weight files that both have, by name; raises RunError if one of them differs."""
    recorded = run.generation_folder(generation).weights
    both = sorted(recorded.keys() & digests.keys())
    other = [name for name in both if recorded[name] != digests[name]]
    if other:
        raise RunError(f"{run.path} was started on a model with other weights: {other[0]} differs")
    return both


def open_past_run(run: RunDir, generation: int | None) -> PastRun:
    """The run at a generation, the last complete one by default.

    Raises UserError if it is not there, RunError if the model's folder now holds another model.
    """
    complete = run.complete_generations()
    if not complete:
        raise UserError(f"{run.path}: has no finished generation")
    chosen = complete[-1] if generation is None else generation
    if chosen not in complete:
        raise UserError(f"--generation {chosen}: {run.path} has generations {complete[0]}-{complete[-1]}")
    config = run.config()
    experiment = Experiment(config)
    folder, modules = run.generation_folder(chosen), experiment.layout.modules
    mean_abs = folder.mean_abs
    if len(mean_abs) != len(modules):
        raise RunError(
            f"{run.path} was started on another model than {experiment.source.path} is now: "
            f"with {len(mean_abs)} adapted layers, now {len(modules)}"
        )
    return PastRun(run, config, experiment, experiment.strategy(mean_abs, folder.frobenius), chosen)
