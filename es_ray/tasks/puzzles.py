"""Countdown puzzles: numbers, and a target that they reach with + - * / and brackets."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TEST_SHARE = 10  # one puzzle of ten belongs to the test split


@dataclass(frozen=True)
class Puzzle:
    """Numbers, their target, and one expression that uses each of them once."""

    numbers: tuple[int, ...]
    target: int
    solution: str


class Puzzles(Sequence[Puzzle]):
    """Puzzles that can be solved, made when they are read: any size costs nothing at the start.

    split: train or test; the two have no puzzle in common, whatever their sizes and seeds, as a hash of
    numbers and target decides which of them a puzzle belongs to. count: of numbers, each from 1 to
    `largest`; the target is a whole number from 10 to `target`.
    """

    def __init__(self, split: str, size: int, count: int, largest: int, target: int, seed: int) -> None:
        self._split, self._size = split, size
        self._count, self._largest, self._target, self._seed = count, largest, target, seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Puzzle:  # type: ignore[override]  # no slices
        if not 0 <= index < self._size:
            raise IndexError(index)
        # SHA-256 in counter mode: Python's random may draw other numbers in a later version
        draws = _draws(f"countdown {self._seed} {self._split} {index}")
        while True:
            puzzle = self._drawn(draws)
            if puzzle is not None and _split_of(puzzle) == self._split:
                return puzzle

    def _drawn(self, draws: Iterator[int]) -> Puzzle | None:
        """Numbers joined at random until one value is left; None if that is no target."""
        numbers = tuple(1 + next(draws) % self._largest for _ in range(self._count))
        parts = [(number, str(number)) for number in numbers]
        while len(parts) > 1:
            left = parts.pop(next(draws) % len(parts))
            right = parts.pop(next(draws) % len(parts))
            operator = "+-*/"[next(draws) % 4]
            value = _whole(left[0], operator, right[0])
            if value is None:
                return None
            parts.append((value, f"({left[1]} {operator} {right[1]})"))
        value, solution = parts[0]
        return Puzzle(numbers, value, solution[1:-1]) if 10 <= value <= self._target else None


def _whole(left: int, operator: str, right: int) -> int | None:
    """The result, if it is a positive whole number."""
    if operator == "/":
        return left // right if left % right == 0 else None
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return value if value > 0 else None


def _split_of(puzzle: Puzzle) -> str:
    name = f"{sorted(puzzle.numbers)} {puzzle.target}"
    part = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _TEST_SHARE
    return "test" if part == 0 else "train"


def _draws(name: str) -> Iterator[int]:
    """Whole numbers of 32 bits, without end."""
    block = 0
    while True:
        digest = hashlib.sha256(f"{name} {block}".encode()).digest()
        yield from (int.from_bytes(digest[at : at + 4], "big") for at in range(0, len(digest), 4))
        block += 1
