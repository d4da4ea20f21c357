r"""Countdown: reach a target with given numbers ("Evolution Strategies at Scale", arXiv 2509.24372).

Numbers 44, 19 and 35, target 98. The completion

    <think>44 + 19 is 63, and 35 more is 98.</think>
    <answer>44 + 19 + 35</answer>

earns 0.1 x 1 + 1. The reward is the paper's, 0.1 x format + answer. Format is the dense part: 1 for those
two parts and nothing else, or 0.1 for a <think> part and 0.5 for an <answer> somewhere (the first <think> may
stand in the prompt, so it is taken as given). Answer is 1 if the last <answer> has each number exactly once
(the paper's rule; `use: at-most` lets some be left out), only + - * / and brackets, and comes to the target.

    >>> task = Countdown()
    >>> example = task.example({"numbers": [44, 19, 35], "target": 98}, "train.jsonl, line 1")
    >>> task.score(example, "<think>Easy.</think>\n<answer>44 + 19 + 35</answer>")
    Score(reward=1.1, metrics={'correct': True, 'format': 1.0, 'valid': True})
    >>> task.score(example, "So it is <answer>44 + 19</answer>")
    Score(reward=0.05, metrics={'correct': False, 'format': 0.5, 'valid': False})

A second dense part, off by default: `closeness` pays for an expression with the right numbers by how near
it comes. The target missed by 38 of 98 earns

    >>> near = Countdown(closeness=0.5).score(example, "So it is <answer>44 + 35 - 19</answer>").reward
    >>> near == 0.1 * 0.5 + 0.5 / (1 + 38 / 98)
    True

Without data of one's own the puzzles are made here, all of them solvable; `task.options` say of which kind.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.arithmetic import Expression
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.lazy import LazyExamples
from es_ray.tasks.options import one_of, share, whole
from es_ray.tasks.puzzles import Puzzles
from es_ray.tasks.tags import last_between

PROMPT = (
    "Use the numbers {numbers} to make an expression that equals {target}. You may use + - * / and "
    "brackets, and must use {use}. Think in <think> </think> tags, then give the expression alone in "
    "<answer> </answer> tags, for example <think>3 * 4 is 12, less 2 is 10.</think>\n"
    "<answer>3 * 4 - 2</answer>"
)
USES = {"exactly": "each number exactly once", "at-most": "each number at most once"}
TOLERANCE = Fraction(1, 100_000)
"""How near the target is enough, as the paper has it: data hold targets such as 266.666666."""


class Countdown(Task):
    """Reward 0.1 x format + answer.

    use: exactly (each number once) or at-most; closeness: from 0 (the paper's) to 1, what a valid expression
    that misses the target is worth as it comes near, closeness / (1 + distance / max(1, |target|)). For
    puzzles of its own: count (of numbers, 2 to 6), largest (of them), target (the largest), train_size,
    test_size, seed; no test puzzle is a training puzzle. Metrics: correct; format (0 to 1); valid (the
    last answer is an expression that uses the numbers as it must).
    """

    def __init__(
        self,
        use: str = "exactly",
        closeness: float = 0.0,
        count: int = 4,
        largest: int = 25,
        target: int = 100,
        train_size: int = 1000,
        test_size: int = 100,
        seed: int = 0,
    ) -> None:
        self._use = one_of("use", use, tuple(USES))
        self._closeness = share("closeness", closeness)
        self._made = {
            "count": whole("count", count, 2, 6),
            "largest": whole("largest", largest, 2, 1_000_000),
            "target": whole("target", target, 10, 1_000_000),
            "seed": whole("seed", seed, 0),
        }
        self._sizes = {
            "train": whole("train_size", train_size, 1),
            "test": whole("test_size", test_size, 1),
        }

    @property
    def train(self) -> Sequence[Example]:  # type: ignore[override]
        """Puzzles made here."""
        return self._puzzles("train")

    @property
    def test(self) -> Sequence[Example]:  # type: ignore[override]
        """Puzzles made here, none of which is in `train`."""
        return self._puzzles("test")

    def _puzzles(self, split: str) -> Sequence[Example]:
        puzzles = Puzzles(split, self._sizes[split], **self._made)

        def made(index: int) -> Example:
            puzzle = puzzles[index]
            metadata = {"numbers": list(puzzle.numbers), "solution": puzzle.solution}
            return self._example(list(puzzle.numbers), puzzle.target, metadata, f"{split} puzzle {index}")

        name = {"countdown": 1, "split": split, "use": self._use, **self._made}
        return LazyExamples(len(puzzles), made, name)

    def example(self, row: Mapping[str, Any], where: str) -> Example:
        """An example from a row with `numbers` (or `nums`) and `target`; the prompt is made here."""
        there = ", ".join(map(repr, row)) or "none"
        for key, names in {"numbers": ("numbers", "nums"), "target": ("target",)}.items():
            if not any(name in row for name in names):
                raise UserError(f"{where}: '{key}' is missing; the fields there are {there}")
        try:
            numbers, target = _numbers(row), row["target"]
            _ = _target(target)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error
        others = {key: value for key, value in row.items() if key not in ("target", "nums", "numbers")}
        return self._example(numbers, target, {"numbers": numbers, **others}, where)

    def _example(self, numbers: list[int], target: Any, metadata: dict[str, Any], where: str) -> Example:
        shown = ", ".join(map(str, numbers))
        prompt = PROMPT.format(numbers=shown, target=target, use=USES[self._use])
        return Example(prompt, target, metadata, where)

    def score(self, example: Example, completion: str) -> Score:
        """0.1 x format + answer."""
        numbers, target = _numbers(example.metadata), _target(example.target)
        form, value = format_of(completion), self._value(completion, numbers)
        distance = None if value is None else abs(value - target)
        right = distance is not None and distance < TOLERANCE
        near = 0.0 if distance is None else float(1 / (1 + distance / max(Fraction(1), abs(target))))
        reward = 0.1 * form + (1.0 if right else self._closeness * near)
        return Score(reward, {"correct": right, "format": form, "valid": value is not None})

    def _value(self, completion: str, numbers: list[int]) -> Fraction | None:
        """What the last answer comes to; None if it is none, or uses numbers as it must not."""
        answer = last_between(completion, "<answer>", "</answer>")
        if answer is None:
            return None
        try:
            expression = Expression(answer.strip())
            used, given = Counter(expression.numbers), Counter(numbers)
            fits = used == given if self._use == "exactly" else used <= given
            return expression.value() if fits else None
        except (ValueError, ZeroDivisionError):  # no expression, or none with a value
            return None


def format_of(completion: str) -> float:
    """The paper's format, from 0 to 1."""
    text = completion.strip()
    joint, end = text.find("</think>\n<answer>"), text.rfind("</answer>")
    if 0 <= joint < end and text.endswith("</answer>"):
        return 1.0
    answer = text.find("<answer>")
    return 0.1 * ("</think>" in text) + 0.5 * (0 <= answer < end)


def _numbers(fields: Mapping[str, Any]) -> list[int]:
    """The numbers of a row; raises ValueError for what is no list of whole numbers from 0."""
    numbers = fields.get("numbers", fields.get("nums"))
    good = isinstance(numbers, Sequence) and not isinstance(numbers, str) and len(numbers) > 0
    if not good or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in numbers or ()):
        raise ValueError(f"'numbers' must be a list of whole numbers, not {numbers!r}")
    return list(numbers or ())


def _target(target: Any) -> Fraction:
    """The target; raises ValueError for what is no number."""
    try:
        if isinstance(target, bool):
            raise ValueError
        return Fraction(str(target).strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'target' must be a number, not {target!r}") from None
