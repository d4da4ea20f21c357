"""How much a run writes: what a small one does, taken to the members and generations of a long one."""

from es_ray.config import load
from es_ray.runs.generation_folder import DROPPABLE, POPULATION
from tests.short_runs import GENERATIONS
from tests.short_runs import POPULATION as MEMBERS

LONG, MOST = 1000, 45_000_000
"""Generations, and bytes of their files, by these answers: 36 MB when this was written."""


def test_a_thousand_generations_of_the_default_run_stay_small(finished):
    folder = finished.path / f"generations/{GENERATIONS - 2:04d}"
    files = {file.relative_to(folder): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    dropped = sum(size for name, size in files.items() if name.parts[0] in DROPPABLE)
    answers = next(size for name, size in files.items() if name.name == POPULATION)
    rest = sum(files.values()) - dropped - answers
    line = (finished.path / "metrics.jsonl").stat().st_size / GENERATIONS
    config = load()
    each = answers / MEMBERS * config.evolution.population + rest + line
    total = LONG * each + config.output.keep * dropped
    assert 0 < dropped < 150_000 and total < MOST, (total, each, dropped)
