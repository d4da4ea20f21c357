"""Which adapter of a run is exported: the selected centre, or another centre or member."""

from dataclasses import dataclass

from es_ray.errors import UserError
from es_ray.evolution.perturbation import Vector
from es_ray.runs.metrics_file import best_of
from es_ray.runs.past_run import PastRun, open_past_run
from es_ray.runs.run_dir import RunDir


@dataclass(frozen=True)
class Chosen:
    """An adapter of a run.

    generation: of a member its own, of a centre the one after whose update it came about (-1: the start);
    index: the member's, None for a centre; why: what it was chosen by, for people.
    """

    past: PastRun
    generation: int
    index: int | None
    why: str

    @property
    def name(self) -> str:
        """What it is, for people."""
        if self.index is not None:
            return f"member {self.index} of generation {self.generation}"
        if self.generation < 0:
            return "the centre at the start, before any update"
        return f"the centre after generation {self.generation}"

    def vector(self) -> Vector:
        """Its LoRA entries, shape [P]; raises RunError for what cannot be read."""
        if self.index is not None:
            return self.past.member(self.index)
        return self.past.centre_before() if self.generation < 0 else self.past.centre()

    @property
    def note(self) -> str | None:
        """How it differs from the engine's own, as `PastRun.rebuilt_note`."""
        return None if self.generation < 0 else self.past.rebuilt_note(self.index)


def choose(
    run: RunDir,
    generation: int | None = None,
    index: int | None = None,
    best: bool = False,
    last: bool = False,
) -> Chosen:
    """What to export of a run: one of its ways to say so, by default the selected centre.

    generation: the centre after it, or with index a member of it; best: the best member of the run; last: the
    last centre. Raises UserError for two of them, and for what the run does not have.
    """
    given = [
        name
        for name, value in (("--generation", generation is not None), ("--best", best), ("--last", last))
        if value
    ]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]}: only one of them can be exported")
    if index is not None and generation is None:
        raise UserError(f"--index {index}: of which generation? Add --generation")
    if generation is not None:
        why = "asked for by its generation" if index is None else "asked for by its number"
        chosen = Chosen(open_past_run(run, generation), generation, index, why)
        if index is not None:
            chosen.past.member(index)  # refuses one outside the population
        return chosen
    past = open_past_run(run, None)
    if best:
        born, number = best_of(run.metrics(past.generation))
        why = "the run's best member by training reward"
        return Chosen(open_past_run(run, born), born, number, why)
    selected = None if last else run.selected()
    if selected is None:
        why = "the last one" if last else "the last one, as the run selected none"
        return Chosen(past, past.generation, None, why)
    return Chosen(open_past_run(run, max(selected, 0)), selected, None, "the run's selected centre")
