import numpy as np
import pytest

from es_ray.evolution.noise import (
    STREAM_INITIAL,
    STREAM_NOISE,
    STREAM_PROMPTS,
    STREAM_ROUNDING,
    STREAM_SAMPLES,
    Noise,
    normals,
    normals_of,
    philox4x32,
)
from tests import philox

CHUNK = 1 << 18


def words(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    arrays = tuple(np.array([word], dtype=np.uint32) for word in counter)
    return [int(word[0]) for word in philox4x32(arrays, key)]


KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, answer):
    assert words(counter, key) == [int(word, 16) for word in answer.split()]
    assert list(philox.philox4x32_10(counter, key)) == [int(word, 16) for word in answer.split()]


def test_philox_equals_a_second_form_on_random_counters():
    rng = np.random.default_rng(5)
    for _ in range(200):
        *counter, k0, k1 = (int(word) for word in rng.integers(0, 2**32, 6))
        assert words(tuple(counter), (k0, k1)) == list(philox.philox4x32_10(tuple(counter), (k0, k1)))


def test_philox_broadcasts_its_counter_words():
    blocks = np.arange(7, dtype=np.uint32)
    out = philox4x32((blocks, np.uint32(3), np.uint32(2), np.uint32(1)), (9, 8))
    for block in range(7):
        assert [int(word[block]) for word in out] == list(philox.philox4x32_10((block, 3, 2, 1), (9, 8)))


@pytest.mark.parametrize(
    ("seed", "generation", "member", "stream"),
    [(0, 0, 0, 0), (7, 3, 29, 0), (2**40 + 5, 1000, 2, 1), (2**64 - 1, 2**32 - 1, 2**32 - 1, 2)],
)
def test_normals_equal_a_float64_form(seed, generation, member, stream):
    ours = normals(seed, generation, member, stream, 0, 1003)
    assert ours.dtype == np.float32
    assert ours.shape == (1003,)
    wanted = np.array(philox.normals(seed, generation, member, stream, 1003))
    assert np.abs(ours - wanted).max() < 1e-6
    assert (ours == wanted.astype(np.float32)).mean() > 0.999  # float64 inside: rounded once


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1), (1, 2), (3, 4), (1, 7), (2, 1001), (5, 6), (997, 1003), (4, 8), (10, 10),
        (CHUNK - 3, CHUNK + 5), (CHUNK - 1, CHUNK), (CHUNK, CHUNK + 1), (1, 2 * CHUNK + 3), (7, CHUNK + 7),
        (CHUNK + 1, 2 * CHUNK + 9),
    ],
)  # fmt: skip
def test_a_slice_of_normals_equals_that_of_all_entries(start, stop):
    all_entries = normals(11, 2, 3, STREAM_NOISE, 0, 2 * CHUNK + 11)
    assert normals(11, 2, 3, STREAM_NOISE, start, stop).tobytes() == all_entries[start:stop].tobytes()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (3, 7), (1, 9728), (CHUNK - 3, CHUNK + 5), (1, CHUNK + 1), (9, 9)]
)
@pytest.mark.parametrize("members", [[5], [0, 1, 2**32 - 1], list(range(40))])
def test_normals_of_several_members_equal_each_ones(members, start, stop):
    ours = normals_of(2**40 + 1, 6, members, STREAM_NOISE, start, stop)
    assert ours.shape == (len(members), stop - start)
    for member, row in zip(members, ours, strict=True):
        assert row.tobytes() == normals(2**40 + 1, 6, member, STREAM_NOISE, start, stop).tobytes()


@pytest.mark.parametrize("antithetic", [False, True])
def test_noise_of_several_members_equals_each_ones(antithetic):
    noise = Noise(42, antithetic)
    for index, row in zip((3, 0, 1, 2), noise.members(5, (3, 0, 1, 2), 7, 50), strict=True):
        assert np.array_equal(row, noise.member(5, index, 7, 50))


def test_entries_after_the_chunk_boundary_equal_the_second_form():
    ours = normals(2**33 + 1, 4, 6, STREAM_NOISE, CHUNK - 5, CHUNK + 6)
    wanted = [philox.normal(2**33 + 1, 4, 6, STREAM_NOISE, entry) for entry in range(CHUNK - 5, CHUNK + 6)]
    assert np.allclose(ours, wanted, atol=1e-6, rtol=0)


def test_moments_are_those_of_the_standard_normal():
    x = normals(1, 0, 0, STREAM_NOISE, 0, 1_000_000).astype(np.float64)
    assert abs(x.mean()) < 4e-3
    assert abs(x.var() - 1) < 6e-3
    assert abs((x**3).mean()) < 1.2e-2
    assert abs((x**4).mean() - 3) < 5e-2
    assert 4.3 < np.abs(x).max() < 6
    pairs = np.abs([np.corrcoef(x[:-lag], x[lag:])[0, 1] for lag in (1, 2, 3, 4)])
    assert pairs.max() < 5e-3


@pytest.mark.parametrize(
    "other",
    [
        (2, 0, 0, STREAM_NOISE), (1 + 2**32, 0, 0, STREAM_NOISE), (1 + 2**63, 0, 0, STREAM_NOISE),
        (1, 1, 0, STREAM_NOISE), (1, 0, 1, STREAM_NOISE),
        (1, 0, 0, STREAM_INITIAL), (1, 0, 0, STREAM_PROMPTS), (1, 0, 0, STREAM_SAMPLES),
        (1, 0, 0, STREAM_ROUNDING),
    ],
)  # fmt: skip
def test_another_seed_generation_member_or_stream_gives_other_noise(other):
    one, two = normals(1, 0, 0, STREAM_NOISE, 0, 10_000), normals(*other, 0, 10_000)
    assert (one == two).mean() < 1e-3
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_generation_and_member_do_not_stand_for_each_other():
    assert not np.array_equal(normals(1, 2, 3, STREAM_NOISE, 0, 64), normals(1, 3, 2, STREAM_NOISE, 0, 64))


def test_a_member_is_the_noise_of_its_index():
    wanted = philox.normals(42, 5, 3, STREAM_NOISE, 50)
    assert np.allclose(Noise(42).member(5, 3, 0, 50), wanted, atol=1e-6, rtol=0)


def test_antithetic_members_are_a_pair_and_its_negative():
    noise = Noise(42, antithetic=True)
    for pair in range(3):
        wanted = philox.normals(42, 5, pair, STREAM_NOISE, 50)
        even, odd = noise.member(5, 2 * pair, 0, 50), noise.member(5, 2 * pair + 1, 0, 50)
        assert np.allclose(even, wanted, atol=1e-6, rtol=0)
        assert np.array_equal(odd, -even)
    assert np.array_equal(noise.member(5, 3, 7, 19), noise.member(5, 3, 0, 50)[7:19])
