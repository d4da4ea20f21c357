"""Which adapter slot each row belongs to."""

import pytest
import torch

from es_ray.engines.sglang.row_slots import NO_SLOT, RowSlots

CPU = torch.device("cpu")
RANKS, SCALES = [2, 2, 0, 2], [0.5, 0.5, 0.0, 2.0]


def made():
    rows = RowSlots(4, CPU)
    rows.reserve(6)
    return rows


def test_a_decode_batch_has_one_row_a_request():
    rows = made().rows([3, 0, 2], RANKS, SCALES, None, graph=False)
    assert rows.slots.tolist() == [3, 0, NO_SLOT]  # nothing of rank 0 is an adapter
    assert rows.scales.tolist() == SCALES


def test_a_prefill_batch_has_a_row_for_each_token():
    rows = made().rows([3, 2, 0], RANKS, SCALES, [3, 1, 2], graph=False)
    assert rows.slots.tolist() == [3, 3, 3, NO_SLOT, 0, 0]


def test_a_graph_reads_one_tensor_whose_further_rows_belong_to_nobody():
    slots = made()
    first = slots.rows([0, 1, 3, 3, 1], RANKS, SCALES, None, graph=True)
    assert first.slots.tolist() == [0, 1, 3, 3, 1, NO_SLOT]
    second = slots.rows([3, 3], RANKS, SCALES, None, graph=True)
    assert second.slots.data_ptr() == first.slots.data_ptr()
    assert second.slots.tolist() == [3, 3] + [NO_SLOT] * 4


def test_what_a_graph_reads_is_right_after_other_batches_and_other_scales():
    slots = made()
    slots.rows([1, 0], RANKS, SCALES, None, graph=True)
    slots.rows([3, 3], RANKS, [0.0] * 4, [2, 2], graph=False)
    again = slots.rows([1, 0], RANKS, SCALES, None, graph=True)
    assert again.slots.tolist()[:2] == [1, 0] and again.scales.tolist() == SCALES
    gone = slots.rows([1, 0], [2, 0, 0, 2], SCALES, None, graph=True)
    assert gone.slots.tolist()[:2] == [NO_SLOT, 0]


def test_a_graph_that_was_not_announced_is_an_error():
    with pytest.raises(RuntimeError, match="7 rows"):
        made().rows([0] * 7, RANKS, SCALES, None, graph=True)
