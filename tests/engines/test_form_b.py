"""Adapters of which B alone evolves: the centre starts as the base model, members are plain PEFT's."""

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Variant
from es_ray.evolution.strategy import THETA
from tests import plain_peft
from tests.engines.hf_setting import GENERATION, prompt_of, reference, rows, setting
from tests.small_models import STOP_IDS, VOCABULARY, small_model

DTYPES = [torch.float32, torch.bfloat16]


def of(variant: Variant, asked: list[Row]) -> list[Row]:
    return [row._replace(variant=variant) for row in asked]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("architecture", "rank"), [("qwen2", 1), ("llama", 8), ("gemma2", 2)])
def test_the_centre_starts_as_the_base_model_to_the_bit(architecture, rank, dtype, tmp_path):
    folder = small_model(tmp_path / "model", architecture, dtype=dtype)
    s = setting(folder, {"form": "b", "rank": rank})
    asked = rows(indices=(0,))
    centre, base = (s.generate(of(Variant(index), asked), log_probs=True) for index in (CENTRE, BASE))
    for one, other in zip(centre, base, strict=True):
        assert one.token_ids == other.token_ids
        assert one.log_probs.tobytes() == other.log_probs.tobytes()
    member = s.generate(of(Variant(1, GENERATION), asked), log_probs=True)
    assert [m.token_ids for m in member] != [b.token_ids for b in base]


@pytest.mark.parametrize("rank", [1, 3])
def test_members_answer_as_plain_peft(rank, tmp_path):
    s = setting(small_model(tmp_path / "model"), {"form": "b", "rank": rank})
    asked = rows(indices=(0, 1, CENTRE, BASE))
    answers = s.generate(asked)
    for index in (0, 1, CENTRE, BASE):
        model = reference(s, Variant(index, GENERATION), tmp_path / f"adapter{index}")
        for row, answer in zip(asked, answers, strict=True):
            if row.variant.member == index:
                wanted = plain_peft.greedy(model, list(row.prompt_ids), STOP_IDS, 14)
                assert answer.token_ids == wanted


def test_a_members_log_probs_are_plain_pefts(tmp_path):
    s = setting(small_model(tmp_path / "model", "llama"), {"form": "b", "rank": 2})
    rng = np.random.default_rng(3)
    given = [[int(token) for token in rng.integers(0, VOCABULARY, 9)]] * 2
    asked = [Row(Variant(index, 2), prompt_of(rng, 6)) for index in (0, 1)]
    found = s.engine.log_probs([s.theta], s.perturbation, asked, given)
    for row, tokens, ours in zip(asked, given, found, strict=True):
        model = reference(s, row.variant, tmp_path / f"adapter{row.variant.member}")
        logits = plain_peft.logits(model, [*row.prompt_ids, *tokens]).double()[len(row.prompt_ids) - 1 : -1]
        wanted = logits.log_softmax(dim=-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        assert np.allclose(ours, wanted.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("update_scale", ["sigma", "absolute"])
def test_no_step_moves_a(update_scale, tmp_path):
    folder = small_model(tmp_path / "model")
    s = setting(folder, {"form": "b", "rank": 2}, evolution__update_scale=update_scale)
    strategy = s.experiment.strategy(s.engine.info.mean_abs, s.engine.info.frobenius)
    advantages = np.random.default_rng(0).normal(size=6)
    size = strategy.perturbation.size
    pieces = [
        s.engine.noise_sum(strategy.perturbation, 4, advantages, low, min(low + 1000, size))
        for low in range(0, size, 1000)
    ]
    noise_sum = np.concatenate(pieces)
    assert np.array_equal(noise_sum, strategy.perturbation.noise_sum(4, advantages, 0, size))
    complete = strategy.perturbation.noise.members(4, range(6), 0, size)
    wanted = np.einsum("n,np->p", advantages, complete.astype(np.float64))
    state = strategy.initial()
    for summed in (noise_sum, wanted.astype(np.float32)):  # an engine of a user's may sum all of the noise
        after = strategy.step(state, 4, summed)
        pairs = zip(*(s.experiment.layout.matrices(of[THETA]).values() for of in (state, after)), strict=True)
        at = iter(s.experiment.layout.tensors)
        for (a_before, b_before), (a_after, b_after) in pairs:
            assert np.array_equal(a_before, a_after)
            _, part = next(at), next(at)
            scale = 0.25 if update_scale == "sigma" else 1.0
            moved = s.experiment.config.evolution.learning_rate / 30 * scale * wanted[part.start : part.stop]
            assert np.allclose((b_after - b_before).ravel(), moved, atol=1e-6)
