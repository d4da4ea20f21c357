"""Which adapter slot each row belongs to."""

import random

import pytest
import torch

from es_ray.engines.sglang.lora.batch_info import NO_SLOT, LoraBatches

CPU = torch.device("cpu")
RANKS, SCALES = [2, 2, 0, 2], [0.5, 0.5, 0.0, 2.0]


def made():
    rows = LoraBatches(4, CPU)
    rows.reserve(6)
    return rows


def test_a_decode_batch_has_one_row_a_request():
    rows = made().rows([3, 0, 2], RANKS, SCALES, None, graph=False)
    assert rows.slots.tolist() == [3, 0, NO_SLOT]  # nothing of rank 0 is an adapter
    assert rows.scales.tolist() == SCALES


def test_a_prefill_batch_has_a_row_for_each_token():
    rows = made().rows([3, 2, 0], RANKS, SCALES, [3, 1, 2], graph=False)
    assert rows.slots.tolist() == [3, 3, 3, NO_SLOT, 0, 0]


def test_a_graph_reads_one_tensor_whose_unused_rows_have_no_slot():
    slots = made()
    first = slots.rows([0, 1, 3, 3, 1], RANKS, SCALES, None, graph=True)
    assert first.slots.tolist() == [0, 1, 3, 3, 1, NO_SLOT]
    second = slots.rows([3, 3], RANKS, SCALES, None, graph=True)
    assert second.slots.data_ptr() == first.slots.data_ptr()
    assert second.slots.tolist() == [3, 3] + [NO_SLOT] * 4


def test_a_slot_keeps_its_scale_while_others_prompts_run():
    slots = made()
    slots.rows([1, 0], RANKS, SCALES, None, graph=True)
    slots.rows([3, 3], [0, 0, 0, 2], [0.0, 0.0, 0.0, 4.0], [2, 2], graph=False)
    again = slots.rows([1, 0], [2, 2, 0, 0], [0.5, 0.5, 0.0, 0.0], None, graph=True)
    assert again.slots.tolist()[:2] == [1, 0]
    assert again.scales.tolist()[:2] == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_has_its_adapter_whatever_ran_before(seed):
    """Requests end and others begin, prompts between steps, in ways that repeat what the graph read."""
    rng = random.Random(seed)
    slot_of = {None: 0, "a": 3, "b": 1, "c": 2}
    scale_of = {"a": 2.0, "b": 0.5, "c": 1.0}
    slots = LoraBatches(4, CPU)
    slots.reserve(12)
    running, repeats = [], 0

    def prepare(ids, lengths, graph):
        ranks, scales = [0] * 4, [0.0] * 4
        for name in filter(None, ids):
            ranks[slot_of[name]], scales[slot_of[name]] = 2, scale_of[name]
        return slots.rows([slot_of[name] for name in ids], ranks, scales, lengths, graph)

    def check(rows, ids):
        for slot, name in zip(rows.slots.tolist(), ids, strict=False):
            assert slot == (NO_SLOT if name is None else slot_of[name])
            assert name is None or rows.scales[slot] == scale_of[name]
        assert rows.slots.tolist()[len(ids) :] == [NO_SLOT] * (len(rows.slots) - len(ids))

    for _ in range(300):
        if running and rng.random() < 0.4:
            running.pop(rng.randrange(len(running)))
        if len(running) < 10 and rng.random() < 0.5:
            new = rng.choices(list(slot_of), k=rng.randint(1, 2))
            lengths = [rng.randint(1, 4) for _ in new]
            per_token = [name for name, length in zip(new, lengths, strict=True) for _ in range(length)]
            check(prepare(new, lengths, graph=False), per_token)
            running += new
        if running:
            rows = slots.repeated(running, slot_of)
            repeats += rows is not None
            check(rows or prepare(running, None, graph=True), running)
    assert repeats > 20


def test_another_slot_for_an_adapter_is_not_a_repeat():
    slots = made()
    assert slots.repeated(["a"], {"a": 1}) is None
    slots.rows([1], RANKS, SCALES, None, graph=True)
    assert slots.repeated(["a"], {"a": 1}).slots.tolist()[0] == 1
    assert slots.repeated(["a"], {"a": 3}) is None


def test_the_device_is_written_only_where_something_changes(monkeypatch):
    slots, sent = made(), []
    monkeypatch.setattr(
        slots, "_copy", lambda target, source: (sent.append(source.tolist()), target.copy_(source))
    )
    slots.rows([1, 0], RANKS, SCALES, None, graph=True)
    assert sent == [SCALES, [1, 0] + [NO_SLOT] * 4]
    slots.rows([1, 0], RANKS, SCALES, None, graph=True)
    assert len(sent) == 2
    slots.rows([0, 1], RANKS, SCALES, None, graph=True)
    assert len(sent) == 3


def test_rows_are_written_again_after_reserve():
    slots = made()
    slots.repeated(["a"], {"a": 1})
    slots.rows([1], RANKS, SCALES, None, graph=True)
    slots.reserve(6)
    assert slots.repeated(["a"], {"a": 1}) is None
    assert slots.rows([1], RANKS, SCALES, None, graph=True).slots.tolist() == [1] + [NO_SLOT] * 5


def test_a_graph_that_was_not_reserved_is_an_error():
    with pytest.raises(RuntimeError, match="7 rows"):
        made().rows([0] * 7, RANKS, SCALES, None, graph=True)
