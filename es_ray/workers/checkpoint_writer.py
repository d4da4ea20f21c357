"""Writes the changes of a merged centre, in which two workers agree, as a checkpoint."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.strategy import THETA, Strategy
from es_ray.experiment import Experiment
from es_ray.lora.changes_file import write_changes
from es_ray.lora.checkpoints import CHANGES, description
from es_ray.runs.atomic_io import writing
from es_ray.runs.recorder import GenerationRecord
from es_ray.runs.run_dir import RunDir
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)


class _Differ(Exception):  # noqa: N818 - says what was found, not who failed
    """Two workers have different changes."""


def with_checkpoint(
    pool: Pool, strategy: Strategy, experiment: Experiment, run: RunDir, record: GenerationRecord
) -> GenerationRecord:
    """A generation's record, with a checkpoint of the centre that it started from in its folder if it is due.

    The workers still have that centre's changes. Two of them, where there are two, are asked for one matrix
    after the other; if they differ, there is a warning and no checkpoint. Raises RunError.
    """
    centre, noise, layout = record.before[THETA], strategy.perturbation, experiment.layout
    every = experiment.config.output.checkpoint_every
    if every is None or record.generation % every or not noise.fresh or len(centre) == 0:
        return record

    def matrices() -> Iterator[NDArray[np.float32]]:
        for number in range(len(layout.modules)):
            change = pool.change(centre, noise, number)
            if change is None:
                raise _Differ
            yield change

    with writing(run.path):
        folder = run.unfinished(record.generation)
        try:
            write_changes(folder / CHANGES, layout, matrices(), description(centre, noise, layout))
        except _Differ:
            (folder / CHANGES).unlink()
            log.warning(
                "generation %d has no checkpoint: two workers have different weights: memory may be damaged",
                record.generation,
            )
    return replace(record, folder=folder)
