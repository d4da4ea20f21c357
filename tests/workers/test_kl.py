"""The centre's KL to the base model, against plain transformers and PEFT in float64."""

import numpy as np
import pytest
import torch

from es_ray.config import Config, load
from es_ray.engines.base import CENTRE
from es_ray.errors import UserError
from es_ray.evaluation import Candidate
from es_ray.evaluation.kl import KlPrompts, kl_of, kl_terms
from es_ray.evolution.draws import sample_seeds
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from es_ray.preparation import resolve_config
from es_ray.workers.local import LocalPool
from tests import plain_peft


def test_terms_are_an_unbiased_estimate_of_the_kl_and_never_negative():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 12))
    centre, base = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    p = np.exp(centre)
    terms = kl_terms(base.astype(np.float32), centre.astype(np.float32))
    assert (terms >= 0).all()
    assert (p * terms).sum() == pytest.approx((p * (centre - base)).sum(), rel=1e-5)
    assert kl_terms(centre, centre).tolist() == [0.0] * 12
    assert kl_of(np.array([[1.0, 3], [2.0, 1]])) == 0.75


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The KL of a centre far from the base model, with its adapter's folder and the experiment."""
    config = resolve_config(load(sets=["cluster.workers=0", "task.max_new_tokens=24", "engine.rows=3"]))
    experiment = Experiment(config)
    folder = tmp_path_factory.mktemp("centre")
    with LocalPool(config, experiment.workload) as pool:
        info = pool.start()
        strategy = experiment.strategy(info.mean_abs, info.frobenius)
        theta = strategy.perturbation.member(strategy.initial()["theta"], 0, 1)
        batch, prompts = experiment.batch(7), KlPrompts("test", list(range(8)))
        sampled = []
        engine = pool._worker._engine
        generate = engine.generate

        def listen(*arguments, **named):
            made = generate(*arguments, **named)
            if named.get("log_probs"):
                sampled.extend(zip(arguments[2], made, strict=True))
            return made

        engine.generate = listen
        noise = strategy.perturbation
        outcomes = pool.evaluate(theta, noise, 7, [Candidate(CENTRE)], batch, kl=prompts)
        alone = pool.evaluate(theta, noise, 7, [Candidate(CENTRE)], batch)
    AdapterWriter(experiment.layout, experiment.source.path).write(theta, folder, "")
    assert alone.kl is None
    assert alone.examples(CENTRE, "train") == outcomes.examples(CENTRE, "train")
    return outcomes.kl, sampled, folder, experiment, noise.noise


def test_kl_is_that_of_the_full_softmax_in_float64(measured):
    kl, sampled, folder, experiment, noise = measured
    centre, base = plain_peft.adapted_model(folder).double(), plain_peft.base_model(experiment.source.path)
    base, terms = base.double(), []
    for row, made in sampled:
        ids, start = torch.tensor([[*row.prompt_ids, *made.token_ids]]), len(row.prompt_ids)
        both = []
        for model in (base, centre):
            with torch.no_grad():
                log_probs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            both.append(log_probs.gather(-1, ids[0, start:, None])[:, 0].numpy())
        log_rho = both[0] - both[1]
        terms += (np.exp(log_rho) - 1 - log_rho).tolist()
    assert kl == pytest.approx(np.mean(terms), rel=1e-3)
    assert kl > 1e-4


def test_completions_are_sampled_by_the_centres_own_seeds(measured):
    _, sampled, _, experiment, noise = measured
    seeds = sample_seeds(noise, 7, CENTRE, range(8), 1)[:, 0].tolist()
    assert [row.sampling for row, _ in sampled] == [(seed, 1.0, 1.0) for seed in seeds]
    assert {row.variant.member for row, _ in sampled} == {CENTRE}
    assert [row.prompt_ids for row, _ in sampled] == experiment.prompt_ids["test"]


def test_a_limit_needs_a_measurement():
    with pytest.raises(UserError, match=r"guard\.max_kl: 0\.5 has no effect where no KL is measured"):
        Config().replace(guard__max_kl=0.5, evaluation__kl_every=None)
    assert Config().replace(guard__max_kl=0.5).evaluation.kl_every == 10
