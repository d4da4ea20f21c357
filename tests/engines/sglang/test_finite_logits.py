import pytest
import torch

from es_ray.engines.sglang.finite_logits import FiniteLogitsCheck

INF, NAN = float("inf"), float("nan")


def seen(*batches: list[list[float]]) -> bool:
    watch = FiniteLogitsCheck()
    for batch in batches:
        logits = torch.tensor(batch)
        watch.look(logits, logits.argmax(dim=-1).int())
    return watch.answer()


@pytest.mark.parametrize("row", [[0.0, NAN, 1.0], [NAN, INF, 0.0], [INF, 0.0, 0.0], [-INF, -INF, -INF]])
def test_a_row_without_a_finite_maximum_is_seen_in_any_batch(row):
    fine = [[1.0, 2.0, 3.0], [0.0, -1.0, -2.0]]
    assert not seen([*fine, row])
    assert not seen([row, *fine], fine)
    assert not seen(fine, [row], fine)


def test_tokens_that_are_ruled_out_are_not_an_error():
    assert seen([[-INF, 0.5, -INF]], [[1.0, 2.0, 3.0]])


def test_no_rows_are_not_an_error():
    watch = FiniteLogitsCheck()
    watch.look(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert watch.answer()


def test_an_answer_starts_anew():
    watch = FiniteLogitsCheck()
    watch.look(torch.tensor([[NAN, 0.0]]), torch.tensor([0]))
    assert not watch.answer()
    assert watch.answer()
    watch.look(None, torch.tensor([0]))  # a batch that computes no logits
    assert watch.answer()
