"""The order of prompts and the seeds of samples, against the generator written a second time."""

import pytest

from es_ray.evolution.draws import PromptOrder, sample_seeds
from es_ray.evolution.noise import Noise
from tests.philox import philox4x32_10

SEED = 12345678901
KEY = (SEED & 0xFFFFFFFF, SEED >> 32)


def order(seed: int, number: int, size: int) -> list[int]:
    """One pass: the numbers sorted by their words of stream 2."""
    key = (seed & 0xFFFFFFFF, seed >> 32)
    word = {n: philox4x32_10((n // 4, 0, number, 2), key)[n % 4] for n in range(size)}
    return sorted(range(size), key=lambda n: (word[n], n))


@pytest.mark.parametrize("size", [1, 3, 4, 10, 1001])
def test_each_pass_has_all_numbers_in_an_order_of_its_own(size):
    found = PromptOrder(SEED, size).numbers(0, 3 * size)
    passes = [found[at : at + size] for at in range(0, 3 * size, size)]
    assert passes == [order(SEED, number, size) for number in range(3)]
    if size >= 10:
        assert passes[0] != passes[1] != passes[2]


def test_positions_are_the_same_however_they_are_asked_for():
    whole = PromptOrder(SEED, 7).numbers(0, 70)
    for start, count in [(0, 5), (5, 5), (63, 7), (4, 30), (69, 1)]:
        assert PromptOrder(SEED, 7).numbers(start, count) == whole[start : start + count]
    one = PromptOrder(SEED, 7)
    assert [one.numbers(start, 1)[0] for start in reversed(range(70))] == whole[::-1]


def test_another_seed_has_another_order():
    assert PromptOrder(SEED, 100).numbers(0, 100) != PromptOrder(SEED + 1, 100).numbers(0, 100)
    assert PromptOrder(SEED, 100).numbers(0, 100) != PromptOrder(SEED + 2**32, 100).numbers(0, 100)


@pytest.mark.parametrize(("index", "member"), [(5, 5), (-1, 0xFFFFFFFF), (-2, 0xFFFFFFFE)])
def test_the_seed_of_a_sample_is_the_first_word_of_its_block(index, member):
    found = sample_seeds(Noise(SEED), 9, index, [0, 3, 1000], samples=4)
    wanted = [
        [philox4x32_10((prompt * 4 + sample, member, 9, 3), KEY)[0] >> 1 for sample in range(4)]
        for prompt in (0, 3, 1000)
    ]
    assert found.tolist() == wanted
    assert all(0 <= seed < 2**31 for row in wanted for seed in row)


def test_a_pair_shares_its_seeds_and_others_do_not():
    def seeds(index: int) -> list[list[int]]:
        return sample_seeds(Noise(SEED, antithetic=True), 0, index, [7], 2).tolist()

    assert seeds(4) == seeds(5)
    assert len({str(seeds(index)) for index in (-2, -1, 0, 2, 4)}) == 5
