"""What a run draws besides noise: the order of its prompts, and a seed for each sampled completion.

Both are words of the same generator as the noise, of streams of their own: any process draws the same.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from es_ray.evolution.noise import STREAM_PROMPTS, STREAM_SAMPLES, Noise, philox4x32

_WORD = 0xFFFFFFFF


class PromptOrder:
    """The numbers 0 to size - 1 in endless passes, each in an order of its own.

    Within a pass the numbers are sorted by their words of stream 2, whose counter has the number in place of
    a flat index, 0 for the member, and the pass for the generation.
    """

    def __init__(self, seed: int, size: int) -> None:
        self._seed, self._size = seed, size
        self._pass = lru_cache(maxsize=2)(self._order)  # a generation may take the end of one and the next

    def numbers(self, start: int, count: int) -> list[int]:
        """The positions [start, start + count) of that endless sequence."""
        found: list[int] = []
        while len(found) < count:
            number, at = divmod(start + len(found), self._size)
            found += self._pass(number)[at : at + count - len(found)].tolist()
        return found

    def _order(self, number: int) -> NDArray[np.int64]:
        words = philox4x32(
            (np.arange(-(-self._size // 4)), np.uint32(0), np.uint32(number), np.uint32(STREAM_PROMPTS)),  # type: ignore[arg-type]
            _key(self._seed),
        )
        return np.stack(words, axis=-1).reshape(-1)[: self._size].argsort(kind="stable")


def sample_seeds(
    noise: Noise, generation: int, index: int, prompts: Sequence[int], samples: int
) -> NDArray[np.int64]:
    """Seeds of a candidate's completions, 0 to 2**31 - 1, shape [prompts, samples].

    index: of a member, or negative for another candidate, which has seeds of its own; prompts: the numbers of
    the examples in their split. The members of an antithetic pair share theirs, as they share their noise.
    The first word of stream 3, whose block is prompt x samples + sample.
    """
    member = index // 2 if noise.antithetic and index >= 0 else index & _WORD
    firsts = np.asarray(prompts, dtype=np.uint32)[:, None] * np.uint32(samples)
    blocks = firsts + np.arange(samples, dtype=np.uint32)
    counter = (blocks, np.uint32(member), np.uint32(generation), np.uint32(STREAM_SAMPLES))
    words = philox4x32(tuple(np.asarray(word) for word in counter), _key(noise.seed))
    return (words[0] >> np.uint32(1)).astype(np.int64)


def _key(seed: int) -> tuple[int, int]:
    return seed & _WORD, seed >> 32
