"""Work on long vectors piece by piece: each fits a core's cache, and several threads share them."""

import bisect
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

PIECE: Final = 1 << 16
"""Entries of a piece; it never changes what is computed entry by entry."""
THREADS: Final = 8
"""Most threads; NumPy leaves the interpreter to the others while it computes."""
_FEW: Final = 4
"""Pieces for which threads would cost more than they save."""


def in_pieces(size: int, work: Callable[[int, int], T]) -> list[T]:
    """What work(start, stop) returns for each piece of a vector, in their order."""
    starts = range(0, size, PIECE)

    def some(starts: range) -> list[T]:
        return [work(start, min(start + PIECE, size)) for start in starts]

    threads = min(THREADS, os.cpu_count() or 1, len(starts) // _FEW)
    if threads < 2:
        return some(starts)
    each = -(-len(starts) // threads)
    with ThreadPoolExecutor(threads, "pieces") as pool:
        found = list(pool.map(some, (starts[at : at + each] for at in range(0, len(starts), each))))
    return [result for results in found for result in results]


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """A new vector of the parts, one after the other; there is at least one."""
    stops = list(itertools.accumulate(map(len, parts)))
    found = np.empty(stops[-1], dtype=np.result_type(*parts))

    def fill(start: int, stop: int) -> None:
        number = bisect.bisect_right(stops, start)
        while start < stop:
            end = min(stop, stops[number])
            first = stops[number] - len(parts[number])
            found[start:end] = parts[number][start - first : end - first]
            start, number = end, number + 1

    in_pieces(len(found), fill)
    return found
