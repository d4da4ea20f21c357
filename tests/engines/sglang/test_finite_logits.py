import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from es_ray.engines.sglang import finite_logits
from es_ray.engines.sglang.finite_logits import FiniteLogitsCheck

INF, NAN = float("inf"), float("nan")


def seen(*batches: list[list[float]]) -> bool:
    check = FiniteLogitsCheck()
    for batch in batches:
        logits = torch.tensor(batch)
        check.observe(logits, logits.argmax(dim=-1).int())
    return check.take_result()


@pytest.mark.parametrize("row", [[0.0, NAN, 1.0], [NAN, INF, 0.0], [INF, 0.0, 0.0], [-INF, -INF, -INF]])
def test_a_row_without_a_finite_maximum_is_seen_in_any_batch(row):
    fine = [[1.0, 2.0, 3.0], [0.0, -1.0, -2.0]]
    assert not seen([*fine, row])
    assert not seen([row, *fine], fine)
    assert not seen(fine, [row], fine)


@pytest.mark.parametrize("row", [[0.0, NAN, 1.0], [NAN, INF, 0.0], [INF, 0.0, 0.0], [-INF, -INF, -INF]])
def test_before_a_draw_such_a_row_is_seen_and_made_harmless(row):
    check, logits = FiniteLogitsCheck(), torch.tensor([[1.0, -INF, 3.0], row])
    check.observe_before_draw(logits)
    assert not check.take_result()
    assert logits.tolist() == [[1.0, -INF, 3.0], [0.0, 0.0, 0.0]]
    check.observe_before_draw(logits)
    assert check.take_result()
    check.observe_before_draw(torch.empty(0, 3))
    check.observe_before_draw(None)
    assert check.take_result()


class Sampler:
    """SGLang's, as far as it matters: argmax, or a draw that overwrites the logits and fails on NaN."""

    def forward(self, logits_output, sampling_info, return_logprob):
        logits = logits_output.next_token_logits
        if sampling_info.is_all_greedy:
            return logits.argmax(dim=-1)
        logits[:] = logits.softmax(dim=-1)
        return torch.multinomial(logits, 1)[:, 0]


@pytest.mark.parametrize("greedy", [False, True])
def test_the_sampler_is_checked_whichever_way_it_takes_tokens(monkeypatch, greedy):
    for name in ("sglang", "sglang.srt", "sglang.srt.layers", "sglang.srt.layers.sampler"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sampler = type("Sampler", (Sampler,), {"forward": Sampler.forward})
    sys.modules["sglang.srt.layers.sampler"].Sampler = sampler
    finite_logits.check_logits()
    info = SimpleNamespace(is_all_greedy=greedy)
    for row, fine in [([0.0, 50.0, -INF], True), ([0.0, NAN, 1.0], False), ([0.0, 50.0, 1.0], True)]:
        output = SimpleNamespace(next_token_logits=torch.tensor([[0.0, 50.0, 1.0], row]))
        tokens = sampler().forward(output, info, return_logprob=False)
        assert tokens[0] == 1
        assert finite_logits.logits_check.take_result() is fine


def test_tokens_that_are_ruled_out_are_not_an_error():
    assert seen([[-INF, 0.5, -INF]], [[1.0, 2.0, 3.0]])


def test_no_rows_are_not_an_error():
    check = FiniteLogitsCheck()
    check.observe(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert check.take_result()


def test_taking_the_result_resets_it():
    check = FiniteLogitsCheck()
    check.observe(torch.tensor([[NAN, 0.0]]), torch.tensor([0]))
    assert not check.take_result()
    assert check.take_result()
    check.observe(None, torch.tensor([0]))  # a batch that computes no logits
    assert check.take_result()
