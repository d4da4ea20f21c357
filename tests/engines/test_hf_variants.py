"""Several centres, generations and noise scales in one batch, and completions as they end."""

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.errors import EvaluationError
from tests import plain_peft
from tests.engines.hf_setting import GENERATION, LENGTHS, NEW_TOKENS, prompt_of, reference, rows, setting
from tests.small_models import STOP_IDS, small_model

VARIANTS = [
    Variant(0, 3),
    Variant(0, 4),
    Variant(1, 3, sigma_factor=0.5),
    Variant(1, 3, sigma_factor=1.5),
    Variant(0, 3, centre=1),
    Variant(5, 0, centre=1, sigma_factor=2.0),
    Variant(CENTRE),
    Variant(CENTRE, centre=1),
    Variant(CENTRE, 9, centre=2),
    Variant(BASE),
]


def mixed_rows(lengths=LENGTHS):
    rng = np.random.default_rng(8)
    made = [Row(variant, prompt_of(rng, length)) for variant in VARIANTS for length in lengths]
    return [made[number] for number in rng.permutation(len(made))]


def centres_of(s):
    return [s.theta, s.theta[::-1].copy(), 0.5 * s.theta]


SCHEDULED = {"std": 0.5, "schedule": {"kind": "linear", "to": 0.25, "over": 4}}


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("qwen2", {}),
        ("llama", {"init__mode": "population", "init__std": 0.3}),
        ("qwen2", {"evolution__noise": SCHEDULED}),
    ],
)
def test_variants_of_one_batch_equal_plain_pefts(architecture, values, tmp_path):
    s = setting(small_model(tmp_path / "model", architecture), {"rank": 2}, **values)
    centres, asked = centres_of(s), mixed_rows()
    answers = s.engine.generate(centres, s.perturbation, asked)
    for number, variant in enumerate(VARIANTS):
        model = reference(s, variant, tmp_path / f"adapter{number}", centres)
        for row, ours in zip(asked, answers, strict=True):
            if row.variant == variant:
                prompt = list(row.prompt_ids)
                assert ours.token_ids == plain_peft.greedy(model, prompt, STOP_IDS, NEW_TOKENS), str(variant)


def test_variants_of_one_batch_equal_calls_of_their_own(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    centres, asked = centres_of(s), mixed_rows()
    together = s.engine.generate(centres, s.perturbation, asked)
    for variant in VARIANTS:
        some = [number for number, row in enumerate(asked) if row.variant == variant]
        moved = variant._replace(centre=0)
        alone = s.engine.generate(
            centres[variant.centre :],
            s.perturbation,
            [asked[number]._replace(variant=moved) for number in some],
        )
        assert alone == [together[number] for number in some]


def test_no_two_variants_give_the_same_completions(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    prompts = [row.prompt_ids for row in rows(indices=(0,))]
    asked = [Row(variant, prompt) for variant in VARIANTS for prompt in prompts]
    answers = [answer.token_ids for answer in s.engine.generate(centres_of(s), s.perturbation, asked)]
    by_variant = [answers[start : start + len(prompts)] for start in range(0, len(asked), len(prompts))]
    assert not any(one in by_variant[:number] for number, one in enumerate(by_variant))


def test_the_base_model_needs_no_centre(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 1})
    asked = [Row(Variant(BASE), row.prompt_ids) for row in rows(indices=(0,))]
    assert s.engine.generate([], s.perturbation, asked) == s.generate(asked)


def test_an_error_names_the_variants_generation_and_factor(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 1})
    wild = Row(Variant(3, 7, sigma_factor=1e25), (100, 101))
    fine = Row(Variant(3, 7), (100, 101))
    for call in (
        lambda: s.generate([fine, wild]),
        lambda: s.engine.log_probs([s.theta], s.perturbation, [fine, wild], [[5, 6], [7]]),
    ):
        with pytest.raises(
            EvaluationError, match=r"^member 3 of generation 7 at 1e\+25 x sigma: .*not finite"
        ):
            call()
    assert len(s.generate([fine])) == 1


@pytest.mark.parametrize("log_probs", [False, True])
def test_each_completion_is_reported_in_the_step_of_its_last_token(tmp_path, log_probs):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    asked = [
        row._replace(sampling=Sampling(number) if number % 3 == 0 else None)
        for number, row in enumerate(rows())
    ]
    passes, reported = [], []
    hook = s.engine._model.register_forward_hook(lambda *_: passes.append(1))
    answers = s.generate(
        asked,
        log_probs=log_probs,
        on_completion=lambda number, completion: reported.append((number, completion, len(passes))),
    )
    hook.remove()
    assert sorted(number for number, _, _ in reported) == list(range(len(asked)))
    for number, completion, done in reported:
        assert completion is answers[number]
        assert len(completion.token_ids) == done
    assert len({done for _, _, done in reported}) > 2
    assert passes == [1] * max(len(answer.token_ids) for answer in answers)


def test_what_a_report_raises_ends_the_call_and_the_next_one_works(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    asked, passes = rows(), []
    wanted = s.generate(asked)
    base = [Row(Variant(BASE, GENERATION), row.prompt_ids) for row in asked]
    plain = s.generate(base)

    def fail(number, completion):
        raise KeyError(number)

    hook = s.engine._model.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(KeyError):
        s.generate(asked, on_completion=fail)
    hook.remove()
    assert len(passes) == min(len(answer.token_ids) for answer in wanted) < NEW_TOKENS
    model = plain_peft.base_model(s.experiment.source.path)
    with torch.inference_mode():  # the model itself holds no adapter any more
        ids = torch.tensor([asked[0].prompt_ids])
        logits = s.engine._model(input_ids=ids).logits[0]
    assert torch.allclose(logits, plain_peft.logits(model, list(asked[0].prompt_ids)), atol=1e-4)
    assert s.generate(base) == plain
    assert s.generate(asked) == wanted
