"""The engine on a stand-in for SGLang: adapters of many variants, sampling, log-probabilities, noise sums."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from es_ray.config import Config
from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.engines.sglang import compat, lifecycle
from es_ray.engines.sglang import engine as engine_module
from es_ray.engines.sglang import parts as parts_module
from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.engine import SGLangEngine
from es_ray.errors import EvaluationError
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.evolution.schedules import Schedule
from es_ray.experiment import Experiment
from es_ray.lora.layout import LoraLayout
from tests.engines.sglang.fake_sglang import LAYOUT, VOCABULARY, WEIGHTS, FakeEngine
from tests.engines.sglang.test_pool_layout import SLOTS, perturbation

CENTRES = [np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32) for seed in (0, 1)]
PERTURBATION = perturbation(LAYOUT.size)
MANY = [
    Variant(0, 1), Variant(2, 1, 1), Variant(BASE), Variant(0, 2), Variant(0, 1, 0, 0.5),
    Variant(CENTRE, 1, 1), Variant(0, 0, 1, 2.0),
]  # fmt: skip
"""Two centres, three generations and two factors: six adapters in as many slots."""
PROMPTS = [(1, 2, 3), (4, 5)]


class Everything:
    """The arguments of an SGLang that knows every name."""

    def __contains__(self, name: str) -> bool:
        return True


def sglang_engine(monkeypatch, tmp_path, version: str, layout: LoraLayout) -> SGLangEngine:
    experiment = Experiment(
        Config().replace(
            engine__kind="sglang",
            engine__shard=SLOTS - 1,
            model__dtype="float16",
            task__max_new_tokens=5,
            evolution__population=6,
            lora__rank=layout.rank,
            lora__form=layout.form,
        )
    )
    experiment.__dict__["layout"] = layout
    monkeypatch.setattr(compat, "package", lambda: tmp_path)
    monkeypatch.setattr(compat, "check", lambda root: None)
    monkeypatch.setattr(compat, "argument_names", lambda root: Everything())
    eager = version == "0.5.23"
    monkeypatch.setattr(lifecycle, "start", lambda arguments, options: FakeEngine(1, options, eager))
    made = SGLangEngine(experiment)  # the start-up probe included
    made.stop_ids = frozenset({VOCABULARY})  # no token: rows have their full length
    made.fake = made._engine
    made.fake.calls.clear(), made.fake.requests.clear()
    return made


@pytest.fixture(params=["0.5.17", "0.5.23"])
def engine(request, monkeypatch, tmp_path):
    made = sglang_engine(monkeypatch, tmp_path, request.param, LAYOUT)
    yield made
    made.close()


def rows(*variants: Variant) -> list[Row]:
    return [Row(variant, prompt) for variant in variants for prompt in PROMPTS]


def test_the_usual_call_is_one_write_and_one_generate(engine):
    engine.generate(
        CENTRES[:1], PERTURBATION, rows(Variant(CENTRE, 3), *(Variant(n, 3) for n in range(4)), Variant(BASE))
    )
    assert engine.fake.calls == ["write_adapters", "finite"]
    (request,) = engine.fake.requests
    assert request["sampling_params"] == {
        "temperature": 0.0, "max_new_tokens": 5, "stop_token_ids": sorted(engine.stop_ids)
    }  # fmt: skip
    names = [adapter_name(slot) for slot in range(5)] + [None]
    assert request["lora_path"] == [name for name in names for _ in PROMPTS]


@pytest.mark.parametrize("schedule", [Schedule(), Schedule("linear", 0.25, over=3)])
def test_each_slot_holds_its_variant(engine, schedule):
    members = replace(PERTURBATION, schedule=schedule)
    engine.generate(CENTRES, members, rows(*MANY))
    assert engine.fake.calls == ["write_adapters"] * 4 + ["finite"]
    for slot, variant in enumerate(variant for variant in MANY if variant.member != BASE):
        centre = CENTRES[variant.centre]
        wanted = centre
        if variant.member != CENTRE:
            wanted = members.member(centre, variant.generation, variant.member, variant.sigma_factor)
        found = engine.fake.managers[0].matrices(adapter_name(slot))
        for name, pair in LAYOUT.matrices(wanted).items():
            for mine, right in zip(found[name], pair, strict=True):
                assert np.allclose(mine.astype(np.float32), right, rtol=2**-10, atol=1e-6)


def test_variants_in_one_batch_answer_as_they_do_alone(engine):
    together = engine.generate(CENTRES, PERTURBATION, rows(*MANY), log_probs=True)
    assert len({tuple(completion.token_ids) for completion in together}) == len(together)
    for number, variant in enumerate(MANY):
        alone = engine.generate(CENTRES, PERTURBATION, rows(variant), log_probs=True)
        for mine, right in zip(together[2 * number : 2 * number + 2], alone, strict=True):
            assert mine.token_ids == right.token_ids
            assert np.array_equal(mine.log_probs, right.log_probs)


def test_more_variants_than_slots_are_written_one_batch_after_the_other(engine):
    asked = rows(*(Variant(n, 1) for n in range(2 * SLOTS)))
    together = engine.generate(CENTRES[:1], PERTURBATION, asked)
    assert engine.fake.calls == ["write_adapters", "finite"] * 3
    for number in (0, 11, 27):
        assert engine.generate(CENTRES[:1], PERTURBATION, [asked[number]]) == [together[number]]
    assert len({tuple(completion.token_ids) for completion in together}) == len(asked)


def test_the_base_model_alone_needs_no_centre(engine):
    first, _ = engine.generate([], PERTURBATION, rows(Variant(BASE)))
    assert "write_adapters" not in engine.fake.calls
    assert first.token_ids == engine.generate(CENTRES, PERTURBATION, rows(*MANY))[4].token_ids


def test_sampled_rows_run_apart_from_greedy_ones(engine):
    sampled = [row._replace(sampling=Sampling(n, 0.7)) for n, row in enumerate(rows(Variant(0), Variant(1)))]
    greedy = rows(Variant(0), Variant(CENTRE))
    mixed = [row for pair in zip(sampled, greedy, strict=True) for row in pair]
    together = engine.generate(CENTRES[:1], PERTURBATION, mixed)
    assert engine.fake.calls == ["write_adapters", "finite"]
    first, second = (request["sampling_params"] for request in engine.fake.requests)
    assert [(one["temperature"], one["top_p"], one["sampling_seed"]) for one in first] == [
        (0.7, 1.0, n) for n in range(4)
    ]
    assert second["temperature"] == 0.0
    assert engine.generate(CENTRES[:1], PERTURBATION, sampled) == together[::2]
    assert engine.generate(CENTRES[:1], PERTURBATION, greedy) == together[1::2]


def test_log_probabilities_are_those_of_the_tokens(engine):
    asked = rows(*MANY)
    completions = engine.generate(CENTRES, PERTURBATION, asked, log_probs=True)
    again = engine.log_probs(CENTRES, PERTURBATION, asked, [c.token_ids for c in completions])
    for completion, found in zip(completions, again, strict=True):
        assert completion.log_probs.shape == (5,)
        assert (completion.log_probs <= 0).all()
        assert np.array_equal(found, completion.log_probs)
    base = [n for n, row in enumerate(asked) if row.variant.member == BASE][0]
    wanted = [
        engine.fake.log_prob([*PROMPTS[0], *completions[base].token_ids[:n]], token, None)
        for n, token in enumerate(completions[base].token_ids)
    ]
    assert completions[base].log_probs == pytest.approx(wanted, abs=1e-6)
    lengths = [n % 4 for n in range(len(asked))]
    parts = engine.log_probs(
        CENTRES, PERTURBATION, asked, [c.token_ids[:n] for c, n in zip(completions, lengths, strict=True)]
    )
    for completion, part, length in zip(completions, parts, lengths, strict=True):
        assert np.array_equal(part, completion.log_probs[:length])
    assert engine.generate(CENTRES, PERTURBATION, asked)[0].log_probs is None


def test_rows_are_reported_once_each_and_an_exception_ends_the_call(engine):
    asked, seen = rows(*(Variant(n, 1) for n in range(SLOTS))), {}
    found = engine.generate(CENTRES, PERTURBATION, asked, on_completion=lambda n, c: seen.setdefault(n, c))
    assert [seen[n] for n in range(len(asked))] == found

    def stop(number, completion):
        raise KeyboardInterrupt

    engine.fake.requests.clear()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(CENTRES, PERTURBATION, asked, on_completion=stop)
    assert len(engine.fake.requests) == 1


def test_an_interrupted_call_leaves_nothing_to_the_next_one(engine, monkeypatch):
    asked = rows(*(Variant(n, 1) for n in range(4)))
    whole = engine.generate(CENTRES, PERTURBATION, asked)
    monkeypatch.setattr(parts_module, "REQUESTS", 3)

    def stop(number, completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(CENTRES, PERTURBATION, asked, on_completion=stop)
    assert engine.generate(CENTRES, PERTURBATION, asked) == whole
    assert engine.fake.cancelled == 2  # the calls that had not been interrupted themselves


def test_a_row_is_reported_when_it_is_complete_while_others_run(engine):
    asked = rows(*(Variant(n, 1) for n in range(4)))
    lengths = [len(c.token_ids) for c in engine.generate(CENTRES, PERTURBATION, asked)]
    assert set(lengths) == {5}
    ends = [c.token_ids[n % 5] for n, c in enumerate(engine.generate(CENTRES, PERTURBATION, asked))]
    engine.stop_ids = frozenset(ends)
    running = {}
    manager = engine.fake.tokenizer_manager
    found = engine.generate(
        CENTRES, PERTURBATION, asked, on_completion=lambda n, c: running.update({n: len(manager.running)})
    )
    lengths = [len(completion.token_ids) for completion in found]
    assert len(set(lengths)) > 2
    assert [lengths[n] for n in running] == sorted(lengths)  # shorter ones are reported first
    assert sorted(running.values()) == list(range(len(asked)))  # each while the longer ones run


def test_many_rows_are_asked_for_in_several_calls_at_the_same_time(engine, monkeypatch):
    asked = rows(*MANY)
    sampled = [row._replace(sampling=Sampling(n)) for n, row in enumerate(asked[:4])]
    whole = engine.generate(CENTRES, PERTURBATION, [*asked, *sampled], log_probs=True)
    continued = [completion.token_ids for completion in whole[: len(asked)]]
    scores = engine.log_probs(CENTRES, PERTURBATION, asked, continued)
    engine.fake.requests.clear()
    monkeypatch.setattr(parts_module, "REQUESTS", 3)
    running = {}
    manager = engine.fake.tokenizer_manager
    parts = engine.generate(
        CENTRES,
        PERTURBATION,
        [*asked, *sampled],
        log_probs=True,
        on_completion=lambda n, c: running.update({n: len(manager.running)}),
    )
    assert [len(request["lora_path"]) for request in engine.fake.requests] == [3, 3, 3, 3, 2, 3, 1]
    assert [len(request["sampling_params"]) for request in engine.fake.requests[5:]] == [3, 1]
    assert max(running.values()) == len(asked) - 1  # the first one is complete while all others run
    for mine, right in zip(parts, whole, strict=True):
        assert mine.token_ids == right.token_ids
        assert np.array_equal(mine.log_probs, right.log_probs)
    again = engine.log_probs(CENTRES, PERTURBATION, asked, continued)
    assert all(np.array_equal(mine, right) for mine, right in zip(again, scores, strict=True))


def test_a_call_that_fails_among_several_is_raised_when_the_others_have_ended(engine, monkeypatch):
    monkeypatch.setattr(parts_module, "REQUESTS", 3)
    asked = rows(*(Variant(n, 1) for n in range(4)))
    real = engine.fake.async_generate

    async def refusing(input_ids, **arguments):
        if len(input_ids) == 2:  # the last part
            raise ValueError("input is too long")
        return await real(input_ids, **arguments)

    monkeypatch.setattr(engine.fake, "async_generate", refusing)
    with pytest.raises(ValueError, match="too long"):
        engine.generate(CENTRES, PERTURBATION, asked)
    assert len(engine.fake.requests) == 2
    assert not engine.fake.tokenizer_manager.running


def test_an_exception_for_a_row_is_raised_when_the_others_are_complete_too(engine):
    asked, told = rows(*(Variant(n, 1) for n in range(4))), []

    def fail(number, completion):
        told.append(number)
        raise ZeroDivisionError(f"row {number}")

    with pytest.raises(ZeroDivisionError, match="row 0"):
        engine.generate(CENTRES, PERTURBATION, asked, on_completion=fail)
    assert told == [0]
    assert not engine.fake.tokenizer_manager.running
    wild = rows(Variant(3, 2, 0, 1e9))
    with pytest.raises(EvaluationError, match="member 3 of generation 2 .*not finite"):
        engine.generate(CENTRES, PERTURBATION, wild, on_completion=fail)  # the cause of what a reward says


def test_a_stop_token_ends_a_completion(engine):
    greedy = engine.generate(CENTRES, PERTURBATION, rows(Variant(0, 1)))[0]
    assert greedy.finish_reason == "length"
    engine.stop_ids = frozenset({greedy.token_ids[2]})
    stopped = engine.generate(CENTRES, PERTURBATION, rows(Variant(0, 1)))[0]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == greedy.token_ids[: len(stopped.token_ids)]
    assert stopped.token_ids[-1] == greedy.token_ids[2]
    engine.ignore_stop = True
    assert engine.generate(CENTRES, PERTURBATION, rows(Variant(0, 1)))[0] == greedy


def test_logits_that_are_not_finite_are_an_error_with_the_variants_name(engine):
    asked = rows(Variant(0, 1), Variant(3, 2, 0, 1e9), Variant(1, 1))
    with pytest.raises(EvaluationError, match=r"member 3 of generation 2 at 1e\+09 x sigma: .*not finite"):
        engine.generate(CENTRES, PERTURBATION, asked)
    with pytest.raises(EvaluationError, match="member 3 of generation 2 .*not finite"):
        engine.log_probs(CENTRES, PERTURBATION, asked, [(7, 8)] * len(asked))
    engine.generate(CENTRES, PERTURBATION, rows(Variant(BASE)))


def test_a_request_that_sglang_aborts_is_an_error_with_the_variants_name(engine):
    engine.fake.abort = "too long"
    with pytest.raises(EvaluationError, match="member 2 of generation 1: .*too long"):
        engine.generate(CENTRES, PERTURBATION, rows(Variant(2, 1)))
    with pytest.raises(EvaluationError, match="member 2 of generation 1: .*too long"):
        engine.log_probs(CENTRES, PERTURBATION, rows(Variant(2, 1)), [(1,), (2,)])


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_noise_sum_is_the_perturbations_and_does_not_depend_on_slices(engine, monkeypatch, antithetic):
    p, advantages = perturbation(LAYOUT.size, antithetic), np.random.default_rng(0).normal(size=6)
    total = engine.noise_sum(p, 3, advantages, 0, LAYOUT.size)
    assert total.dtype == np.float32
    assert np.abs(total - p.noise_sum(3, advantages, 0, LAYOUT.size)).max() < 1e-5
    assert engine.fake.calls == ["noise_sum"]
    monkeypatch.setattr(engine_module, "SLICE", 100)
    for start, stop in [(0, LAYOUT.size), (3, 257), (100, 101)]:
        part = engine.noise_sum(p, 3, advantages, start, stop)
        assert part.tobytes() == total[start:stop].tobytes()


def test_it_reports_the_norms_of_the_weights(engine):
    wanted = [float(torch.linalg.norm(WEIGHTS[m.name].double())) for m in LAYOUT.modules]
    assert engine.info.frobenius == pytest.approx(wanted, rel=1e-6)


def test_norms_do_not_count_heads_that_several_ranks_hold(engine):
    """As two ranks report them that both hold all of k and v."""
    call = engine._client.call
    engine._client.call = lambda what: call(what) * 2
    assert engine._describe().frobenius == pytest.approx(engine.info.frobenius, rel=1e-12)


def test_the_noise_sum_is_0_where_no_member_differs(engine):
    """In form b, A."""
    sigma = PiecewiseConstant(
        tuple(part.stop for part in LAYOUT.tensors),
        tuple(0.0 if part.matrix == "A" else 0.5 for part in LAYOUT.tensors),
    )
    s, advantages = Perturbation(Noise(3), sigma), np.random.default_rng(0).normal(size=6)
    found = engine.noise_sum(s, 2, advantages, 5, LAYOUT.size)
    assert not found[sigma.dense(5, LAYOUT.size) == 0].any()
    assert np.abs(found - s.noise_sum(2, advantages, 5, LAYOUT.size)).max() < 1e-5
