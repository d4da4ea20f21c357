"""Log-probabilities against plain transformers and PEFT, one sequence at a time and without a cache."""

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.engines.hf.log_probs import continuation_log_probs
from tests import plain_peft
from tests.engines.hf_setting import prompt_of, reference, rows, setting
from tests.small_models import STOP_IDS, VOCABULARY, small_model

MODELS = [
    ("qwen2", {"rank": 2}),
    ("mistral-window", {"rank": 2}),
    ("gemma2", {"rank": 1, "alpha": 32.0}),
    ("opt", {"rank": 2, "target_modules": ["q_proj", "out_proj", "fc1", "fc2"]}),
]
VARIANTS = [Variant(0, 3), Variant(1, 5, sigma_factor=0.5), Variant(CENTRE), Variant(BASE)]


def wanted_of(model, prompt, tokens) -> np.ndarray:
    """Float64 log-softmax of one pass over prompt and tokens."""
    logits = plain_peft.logits(model, [*prompt, *tokens]).double()[len(prompt) - 1 : -1]
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(tokens)[:, None])[:, 0].numpy()


@pytest.mark.parametrize(("architecture", "lora"), MODELS)
def test_those_of_generated_tokens_are_plain_pefts(architecture, lora, tmp_path):
    s = setting(small_model(tmp_path / "model", architecture), lora)
    asked = [
        row._replace(sampling=Sampling(number, temperature=0.7, top_p=0.9) if number % 2 else None)
        for number, row in enumerate(rows(indices=(0, CENTRE)))
    ]
    plain = s.generate(asked)
    answers = s.generate(asked, log_probs=True)
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for index in (0, CENTRE):
        model = reference(s, Variant(index, 3), tmp_path / f"adapter{index}")
        for row, ours, without in zip(asked, answers, plain, strict=True):
            assert ours.token_ids == without.token_ids
            assert without.log_probs is None
            if row.variant.member == index:
                assert ours.log_probs.dtype == np.float32
                assert ours.log_probs.shape == (len(ours.token_ids),)  # a stop token among them
                wanted = wanted_of(model, row.prompt_ids, ours.token_ids)
                assert np.allclose(ours.log_probs, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("architecture", "lora"), MODELS)
def test_those_of_given_tokens_are_plain_pefts(architecture, lora, tmp_path):
    s = setting(small_model(tmp_path / "model", architecture), lora)
    rng = np.random.default_rng(3)
    asked = [Row(variant, prompt_of(rng, n)) for variant in VARIANTS for n in (1, 6, 30)]
    lengths = [0, 1, 2, 9, 23, 12, 5, 1, 17, 3, 40, 8]
    given = [[int(t) for t in rng.integers(0, VOCABULARY, length)] for length in lengths]
    given[3][2] = STOP_IDS[0]  # a stop id like any other token
    found = s.engine.log_probs([s.theta], s.perturbation, asked, given)
    assert [len(array) for array in found] == lengths
    for number, variant in enumerate(VARIANTS):
        model = reference(s, variant, tmp_path / f"adapter{number}")
        for row, tokens, ours in zip(asked, given, found, strict=True):
            if row.variant == variant:
                assert ours.dtype == np.float32
                if tokens:
                    assert np.allclose(ours, wanted_of(model, row.prompt_ids, tokens), atol=1e-4, rtol=0)


def test_those_of_given_tokens_are_those_of_their_generation(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    answers = s.generate(rows(), log_probs=True)
    found = s.engine.log_probs([s.theta], s.perturbation, rows(), [answer.token_ids for answer in answers])
    for ours, answer in zip(found, answers, strict=True):
        assert np.allclose(ours, answer.log_probs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("at_once", [1, 3 * 2 * VOCABULARY, 3 * 7 * VOCABULARY + 5])
@pytest.mark.parametrize("architecture", ["qwen2", "mistral-window", "gemma2"])
def test_they_do_not_depend_on_how_many_logits_are_made_at_once(architecture, at_once, tmp_path):
    model = plain_peft.base_model(small_model(tmp_path / "model", architecture))
    rng = np.random.default_rng(4)
    prompts = [prompt_of(rng, n) for n in (3, 20, 9)]
    given = [list(prompt_of(rng, n)) for n in (30, 11, 1)]
    with torch.inference_mode():
        found = continuation_log_probs(model, prompts, given, logits_at_once=at_once)
    for prompt, tokens, ours in zip(prompts, given, found, strict=True):
        assert np.allclose(ours, wanted_of(model, prompt, tokens), atol=1e-4, rtol=0)


def test_no_more_logits_are_made_at_once_than_asked(tmp_path):
    model = plain_peft.base_model(small_model(tmp_path / "model"))
    shapes = []
    model.register_forward_hook(lambda *a: shapes.append(tuple(a[2].logits.shape)))
    rng = np.random.default_rng(4)
    with torch.inference_mode():
        continuation_log_probs(
            model,
            [prompt_of(rng, 50)] * 2,
            [list(prompt_of(rng, 21))] * 2,
            logits_at_once=2 * 8 * VOCABULARY,
        )
    assert shapes == [(2, tokens, VOCABULARY) for tokens in (1, 8, 8, 4)]


def test_rows_that_end_early_stay_within_learnt_positions(tmp_path):
    """A long prompt with a short continuation beside the reverse: their sum exceeds the positions."""
    model = plain_peft.base_model(small_model(tmp_path / "model", "opt"))
    rng = np.random.default_rng(5)
    prompts = [prompt_of(rng, 240), prompt_of(rng, 4)]
    given = [list(prompt_of(rng, 3)), list(prompt_of(rng, 200))]
    with torch.inference_mode():
        found = continuation_log_probs(model, prompts, given)
    for prompt, tokens, ours in zip(prompts, given, found, strict=True):
        assert np.allclose(ours, wanted_of(model, prompt, tokens), atol=1e-4, rtol=0)
