r"""The last number of a completion, compared with the target's: sums, GSM8K, and whatever ends in a number.

Prompt "What is 23 + 17? Reply with the number only.", target 40, "40", or GSM8K's "They make 40.\n#### 40".
The dense part pays for the form: 0.1 more for nothing but a number, right or wrong, so that a model that
never hits the number has something to learn first.

    >>> from es_ray.tasks import Example
    >>> example = Example("What is 23 + 17? Reply with the number only.", "They make 40.\n#### 40")
    >>> Numeric().score(example, "40")
    Score(reward=1.1, metrics={'correct': True, 'exact': True, 'format': True})
    >>> Numeric().score(example, "23 + 17 is 40.")
    Score(reward=1.0, metrics={'correct': True, 'exact': False, 'format': False})
    >>> Numeric().score(example, "41")
    Score(reward=0.1, metrics={'correct': False, 'exact': False, 'format': True})
"""

import re
from decimal import Context, Decimal
from typing import Any

from es_ray.paths import data_dir
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.options import number, share

_CURRENCY = "[$€£]"
_NUMBER = re.compile(
    rf"(?:(?<![\w)\]])[-+−])?{_CURRENCY}?(?:(?<=[$€£])[-+−])?"  # -5, -$5, $-5; that of 7-5 is no sign
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?<![0-9.])(?=\.[0-9]))"  # or nothing, as in .5
    r"(?:\.[0-9]+)?"
    r"(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
)
_ONLY = re.compile(rf"(?:{_NUMBER.pattern})\s?[%€£$]?\.?")
_CONTEXT = Context(prec=60, traps=[])
"""Differences: without traps, as a completion may hold a number of any size."""


class Numeric(Task):
    """Reward 1 for the right last number, and `only_number` more for a completion that is only a number.

    tolerance: by how much the number may differ, absolute; only_number: reward for nothing but a number;
    any_number: reward for a completion that has a number at all, right or wrong (0: none). Numbers are
    written as 1234, 1,234.50, -3, $5, 15%, 2.5e3; signs of currency and of percent mean nothing.
    Metrics: correct; exact (right, and nothing else); format (nothing but a number).
    Data unless others are given: sums and differences of two numbers up to 40 (data/arithmetic).
    """

    train = data_dir() / "arithmetic" / "train.jsonl"
    test = data_dir() / "arithmetic" / "test.jsonl"

    def __init__(self, tolerance: float = 0.0, only_number: float = 0.1, any_number: float = 0.0) -> None:
        self._tolerance = Decimal(str(number("tolerance", tolerance, 0)))
        self._only, self._any = share("only_number", only_number), share("any_number", any_number)

    def score(self, example: Example, completion: str) -> Score:
        """Compare the last numbers."""
        text = completion.strip()
        answer, target = last_number(text), target_number(example.target)
        only = _ONLY.fullmatch(text) is not None
        right = answer is not None and self._same(answer, target)
        reward = right + self._only * only + self._any * (answer is not None)
        return Score(float(reward), {"correct": right, "exact": right and only, "format": only})

    def _same(self, answer: Decimal, target: Decimal) -> bool:
        return answer == target or abs(_CONTEXT.subtract(answer, target)) <= self._tolerance


def last_number(text: str) -> Decimal | None:
    """The last number in a text; None if it has none."""
    found = _NUMBER.findall(text)
    return _decimal(found[-1]) if found else None


def target_number(target: Any) -> Decimal:
    """A number, or the last one of a text. Raises ValueError if there is none."""
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        return Decimal(str(target))
    found = last_number(target) if isinstance(target, str) else None
    if found is None:
        raise ValueError(f"the target must be a number, or a text that ends with one, not {target!r}")
    return found


def _decimal(text: str) -> Decimal:
    return Decimal(re.sub(r"[,$€£+]", "", text.replace("−", "-")))
