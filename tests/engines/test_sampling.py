"""Sampled rows against a second form of the rule, in NumPy float64 over plain transformers' logits."""

import numpy as np
import pytest
import torch

from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.engines.hf.sampling import Sampler, sample, uniforms
from tests import philox, plain_peft
from tests.engines.hf_setting import GENERATION, NEW_TOKENS, reference, rows, setting
from tests.small_models import STOP_IDS, small_model

SAMPLINGS = [Sampling(7), Sampling(2**31 - 1, 1.7), Sampling(12, 0.6, 0.9), Sampling(0, 1.0, 0.3)]


def uniform(seed: int, position: int) -> float:
    """Word 0 of the position's block in stream 3."""
    return (philox.philox4x32_10((position, 0, 0, 3), (seed, 0))[0] + 0.5) / 2**32


def kept(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities at the temperature; zero outside of the nucleus."""
    scaled = logits.astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    mass, inside = 0.0, np.zeros(len(p), dtype=bool)
    for token in sorted(range(len(p)), key=lambda token: (-p[token], token)):
        inside[token] = True
        mass += p[token]
        if mass >= sampling.top_p:
            break
    return np.where(inside, p, 0.0)


def drawn(logits: np.ndarray, sampling: Sampling, position: int) -> int:
    """The first token whose cumulative probability exceeds the uniform number."""
    p = kept(logits, sampling)
    target, total = uniform(sampling.seed, position) * p.sum(), 0.0
    for token, probability in enumerate(p):
        total += probability
        if total > target:
            return token
    raise AssertionError("no token was drawn")


def continued(model, prompt: list[int], sampling: Sampling) -> list[int]:
    """A sampled continuation, each token from one pass without a cache."""
    tokens: list[int] = []
    while len(tokens) < NEW_TOKENS and not (tokens and tokens[-1] in STOP_IDS):
        logits = plain_peft.logits(model, prompt + tokens)[-1].numpy()
        tokens.append(drawn(logits, sampling, len(tokens)))
    return tokens


def sampled(asked: list[Row]) -> list[Row]:
    """Every way of sampling in turn, and every fifth row greedy."""
    ways = [*SAMPLINGS, None]
    return [row._replace(sampling=ways[number % 5]) for number, row in enumerate(asked)]


@pytest.mark.parametrize("architecture", ["qwen2", "mistral-window"])
def test_sampled_rows_are_those_of_the_reference_and_greedy_ones_stay(architecture, tmp_path):
    s = setting(small_model(tmp_path / "model", architecture), {"rank": 2})
    asked = sampled(rows())
    greedy, answers = s.generate(rows()), s.generate(asked)
    models = {i: reference(s, Variant(i, GENERATION), tmp_path / f"{i}") for i in (0, 1, 4, CENTRE, BASE)}
    for row, ours, plain in zip(asked, answers, greedy, strict=True):
        if row.sampling is None:
            assert ours == plain
        else:
            wanted = continued(models[row.variant.member], list(row.prompt_ids), row.sampling)
            assert ours.token_ids == wanted, row
            assert ours.finish_reason == ("stop" if wanted[-1] in STOP_IDS else "length")


def test_a_seed_gives_the_same_tokens_in_any_batch(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    asked = sampled(rows())
    together = s.generate(asked)
    assert s.generate(asked) == together
    assert s.generate(asked[::-1]) == together[::-1]
    for row, answer in zip(asked[:10], together[:10], strict=True):
        assert s.generate([row]) == [answer]


def test_seeds_differ(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    asked = [Row(Variant(0, GENERATION), (100, 101), Sampling(seed, 2.0)) for seed in range(40)]
    assert len({tuple(answer.token_ids) for answer in s.generate(asked)}) > 35


def test_a_small_temperature_is_greedy(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    wanted = s.generate(rows())
    for temperature in (1e-6, 1e-30):
        cold = [row._replace(sampling=Sampling(5, temperature)) for row in rows()]
        assert s.generate(cold) == wanted


@pytest.mark.parametrize("sampling", [Sampling(0, 2.0), Sampling(0, 1.5, 0.8)])
def test_frequencies_over_seeds_are_the_probabilities(sampling, tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2}, task__max_new_tokens=1)
    prompt, count = (90, 200, 300), 3000
    row = Row(Variant(0, GENERATION), prompt)
    answers = s.generate([row._replace(sampling=sampling._replace(seed=seed)) for seed in range(count)])
    found = np.bincount([answer.token_ids[0] for answer in answers], minlength=768)
    logits = plain_peft.logits(reference(s, row.variant, tmp_path / "adapter"), list(prompt))[-1].numpy()
    expected = kept(logits, sampling)
    assert not found[expected == 0].any()
    expected *= count / expected.sum()
    often = expected >= 5
    pairs = np.append(found[often], found[~often].sum()), np.append(expected[often], expected[~often].sum())
    found, expected = (part[pairs[1] > 0] for part in pairs)
    freedom = len(expected) - 1
    assert freedom > 10
    assert ((found - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_uniform_numbers_are_words_of_the_samples_stream(seed):
    ours = uniforms(seed, 50)
    assert ours.dtype == np.float64
    assert ours.tolist() == [uniform(seed, position) for position in range(50)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.95), (3.0, 0.5), (1.0, 1e-9)])
def test_draws_from_random_logits_are_the_references(temperature, top_p, dtype):
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(200, 500, generator=generator)).to(dtype)
    samplings = [Sampling(seed, temperature, top_p) for seed in range(200)]
    sampler = Sampler(samplings, 10, torch.device("cpu"))
    chosen = torch.full((200,), -1)
    sampler.draw(logits, 6, chosen)
    wanted = [drawn(row, one, 6) for row, one in zip(logits.float().numpy(), samplings, strict=True)]
    assert chosen.tolist() == wanted
    kept_rows = [3, 4, 50, 199]
    sampler.keep(kept_rows)
    some = torch.full((4,), -1)
    sampler.draw(logits[kept_rows], 6, some)
    assert some.tolist() == [wanted[row] for row in kept_rows]


def test_rows_without_sampling_keep_their_token_when_others_end():
    logits = torch.randn(6, 30)
    samplings = [None, Sampling(1), None, Sampling(2), Sampling(3), None]
    sampler = Sampler(samplings, 4, torch.device("cpu"))
    sampler.keep([0, 3, 5])
    chosen = torch.tensor([-1, -2, -3])
    sampler.draw(logits[[0, 3, 5]], 2, chosen)
    assert chosen.tolist() == [-1, drawn(logits[3].numpy(), Sampling(2), 2), -3]
    sampler.keep([0, 2])
    sampler.draw(logits[[0, 5]], 3, chosen[:2])
    assert chosen.tolist()[0] == -1


def test_on_ties_the_nucleus_holds_the_lowest_ids():
    logits = torch.zeros(1000, 8)
    logits[:, 5] = 1.0
    top_p = torch.full((1000,), 0.5, dtype=torch.float64)  # e / (e + 7) = 0.28, and 0.103 for each other
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = sample(logits, torch.ones(1000), top_p, uniform)
    assert sorted(set(found.tolist())) == [0, 1, 2, 5]


def test_impossible_tokens_are_never_sampled_and_nan_logits_give_a_valid_token():
    logits = torch.full((3, 10), -torch.inf)
    logits[:, 4] = logits[:, 6] = 2.0
    ends = torch.tensor([0.0, 0.5, 1.0 - 2**-33], dtype=torch.float64)
    assert sample(logits, torch.ones(3), None, ends).tolist() == [4, 6, 6]
    lost = torch.full((2, 10), torch.nan)
    lost[1, 3] = torch.inf
    for top_p in (None, torch.full((2,), 0.5, dtype=torch.float64)):
        found = sample(lost, torch.ones(2), top_p, ends[:2])
        assert all(0 <= token < 10 for token in found.tolist())
