"""Prompts that wait for places, in SGLang's own scheduler: fewer passes over prompts, the same answers."""

from pathlib import Path

import pytest
import torch

from es_ray.engines.base import Row, Variant
from es_ray.engines.sglang import compat
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from tests.gpu.test_sglang_gpu import config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
PLACES = 32


def answered(**settings) -> tuple[list, list[str]]:
    """Completions of 300 rows with room for 32, and what SGLang's log says of its passes over prompts."""
    from es_ray.engines.sglang.engine import SGLangEngine

    passed_on = {"max_running_requests": PLACES, "log_level": "info", **settings}
    experiment = Experiment(config(lora={"rank": 1}, engine__sglang=passed_on))
    engine = SGLangEngine(experiment)
    strategy = experiment.strategy(engine.info.mean_abs)
    prompts = experiment.prompt_ids["train"] + experiment.prompt_ids["test"]
    asked = [Row(Variant(n % 10), prompts[n % len(prompts)]) for n in range(300)]
    try:
        log = Path(engine._log_file)
        before = log.stat().st_size
        found = engine.generate([strategy.initial()[THETA]], strategy.perturbation, asked)
        said = log.read_bytes()[before:].decode(errors="replace")
    finally:
        engine.close()
    return found, [line for line in said.splitlines() if "Prefill batch" in line]


def test_rows_that_wait_for_others_answer_alike_in_fewer_passes(report):
    found, passes = answered()
    theirs, more_passes = answered(min_free_slots_delay=1)  # SGLang's own way
    lengths = sorted(len(completion.token_ids) for completion in found)
    report(passes=len(passes), passes_of_sglang=len(more_passes), lengths=[lengths[n] for n in (0, 150, -1)])
    assert found == theirs
    assert 300 / PLACES <= len(passes) < 0.75 * len(more_passes)
