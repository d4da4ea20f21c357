r"""Mathematical answers, compared by the package math-verify (`pip install 'es-ray[math]'`).

Prompt "What is 3/4 of 2/3? Put the answer in \boxed{}.", target "\frac{1}{2}" (or "1/2", "0.5", or a
worked solution that ends in \boxed{\frac{1}{2}}). The reward has Countdown's form, answer + 0.1 x format:
format, the dense part, is 1 for a boxed answer that can be read, 0.5 for one that can be read elsewhere.

    >>> from es_ray.tasks import Example
    >>> example = Example("What is 3/4 of 2/3?", r"\frac{1}{2}")
    >>> task = Math()
    >>> task.score(example, r"It is \boxed{0.5}.")
    Score(reward=1.1, metrics={'correct': True, 'format': 1.0})
    >>> task.score(example, "It is $3/4$.")
    Score(reward=0.05, metrics={'correct': False, 'format': 0.5})
    >>> task.score(example, "I do not know.")
    Score(reward=0.0, metrics={'correct': False, 'format': 0.0})

A score takes from 1 to some 500 ms: `task.processes` has several computed at once. math-verify's timeouts
work by signals, which only a main thread receives, and would have a reward depend on the clock: they are off.
What could keep it busy for ever is refused instead and counts as an answer that cannot be read: towers of
powers, large factorials, sums and integrals not carried out, brackets in brackets without end.
"""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.options import share

TAIL = 400
"""Characters of a completion, the last ones, in which an answer is looked for; and of a boxed answer."""
DEPTH, EXPONENT, EXPANDED, FACTORIAL = 12, 1000, 20, 1000
"""The most that is read: depth of brackets; product of exponents, and over brackets with letters; n of n!"""

_UNEVALUATED = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim|bigcup|bigcap)(?![a-zA-Z])")
_POWER = re.compile(r"\^|\*\*")
_OF_BRACKETS = re.compile(r"!\s*!|[)\]}]\s*!")  # n!!, and the factorial of what may be anything
_OF_NUMBER = re.compile(r"([0-9]+)\s*!")
_CHOICE = re.compile(r"binom|\\choose|\\[gG]amma|\\Beta")
_OF_SUM = re.compile(r"[)\]}]\s*(?:\^|\*\*)")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


class Math(Task):
    r"""Reward 1 for an answer equal to the target's, and `dense` x format beside it.

    dense: from 0 (sparse) to 1. The answer is the last \boxed{...}, else what math-verify finds in the last
    400 characters. Metrics: correct; format (1 boxed and readable, 0.5 readable, 0).
    """

    def __init__(self, dense: float = 0.1) -> None:
        self._dense = share("dense", dense)
        self._parse, self._verify = _math_verify()
        self._target = lru_cache(maxsize=100_000)(self._read_target)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._dense,)  # to a process that scores: a cache cannot be pickled

    def score(self, example: Example, completion: str) -> Score:
        """Read the answer, and compare."""
        target = self._target(_text(example.target))
        boxed = last_boxed(completion)
        text = completion[-TAIL:] if boxed is None else f"${boxed}$"
        answer = [] if _too_large(text) else self._parse(text)
        right = bool(answer) and self._verify(target, answer)
        form = (0.5 if boxed is None else 1.0) if answer else 0.0
        return Score(float(right) + self._dense * form, {"correct": right, "format": form})

    def _read_target(self, target: str) -> list[Any]:
        boxed = last_boxed(target)
        bare = boxed if boxed is not None else target
        for text in (f"${bare}$", target) if boxed or "$" not in target else (target,):
            found = self._parse(text)
            if found:
                return found
        raise ValueError(f"the target {target!r} holds nothing that math-verify can read")


def _text(target: Any) -> str:
    if isinstance(target, bool) or not isinstance(target, (str, int, float)):
        raise ValueError(f"the target must be a text or a number, not {target!r}")
    return str(target)


def _math_verify() -> tuple[Callable[[str], list[Any]], Callable[[list[Any], list[Any]], bool]]:
    """The package's parse and verify, without timeouts. Raises UserError if it is not there."""
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError("task.name: math needs math-verify: pip install 'es-ray[math]'") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that there are no timeouts

    def read(text: str) -> list[Any]:
        # a string alone is what stood there although it could not be parsed
        found: list[Any] = parse(text, fallback_mode="no_fallback", parsing_timeout=None)
        return found

    def same(target: list[Any], answer: list[Any]) -> bool:
        return bool(verify(target, answer, timeout_seconds=None))

    return read, same


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...}; None if there is none, or its bracket never closes."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for at in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : at].strip()
    return None


def _too_large(text: str) -> bool:
    """Whether to read it could take for ever: towers of powers, huge factorials, sums to be evaluated."""
    if len(text) > TAIL + 2 or _depth(text) > DEPTH or _UNEVALUATED.search(text) or _OF_BRACKETS.search(text):
        return True
    if any(len(n) > 4 or int(n) > FACTORIAL for n in _OF_NUMBER.findall(text)):
        return True
    if _CHOICE.search(text) and re.search(r"[0-9]{4}", text):
        return True
    product = 1
    for match in _POWER.finditer(text):
        exponent = _group(text, match.end())
        if _POWER.search(exponent) or "!" in exponent:
            return True
        for whole, fraction in re.findall(r"(\d+)(?:\.(\d*))?", exponent):
            if len(whole) + len(fraction) > 4:
                return True
            product *= max(int(whole), 10 ** len(fraction), 1)
    expanded = _OF_SUM.search(text) and re.search(r"[a-z]", text)  # (x + y)^n has many terms
    return product > (EXPANDED if expanded else EXPONENT)


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += 1 if letter in "([{" else -1 if letter in ")]}" else 0
        deepest = max(deepest, depth)
    return deepest


def _group(text: str, start: int) -> str:
    """What a power's sign is followed by: a bracket with its content, or all up to a space or an operator."""
    rest = text[start:].lstrip()
    if rest[:1] not in _BRACKETS or not rest:
        end = re.search(r"(?<=.)[\s+\-/$,;=]", rest, re.DOTALL)
        return rest[: end.start()] if end else rest
    depth = 0
    for at, letter in enumerate(rest):
        depth += 1 if letter in _BRACKETS else -1 if letter in _BRACKETS.values() else 0
        if depth == 0:
            after = rest[at + 1 :].lstrip()
            return rest[: at + 1] + (after[:2] if _POWER.match(after) else "")
    return rest
