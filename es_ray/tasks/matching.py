r"""Answers compared as text: `exact-match`, `contains` and `regex`.

Exact match. Target "Paris": the completion "paris." earns 1 (case and a final full stop are passed over), and
what is not the target earns `dense` times its similarity to it, difflib's ratio 2 M / T: M characters in
common blocks of T in both texts. So "Pari" earns 0.1 x 8 / 9:

    >>> from es_ray.tasks import Example
    >>> ExactMatch().score(Example("What is the capital of France?", "Paris"), "paris.")
    Score(reward=1.0, metrics={'correct': True, 'exact': True, 'similarity': 1.0})
    >>> round(ExactMatch().score(Example("What is the capital of France?", "Paris"), "Pari").reward, 3)
    0.089

Contains. The target anywhere, as whole words, earns 1; what lacks it earns `dense` times the share of the
target that stands there in one piece:

    >>> Contains().score(Example("What is the capital of France?", "Paris"), "It is Paris, I think.")
    Score(reward=1.0, metrics={'correct': True, 'exact': False, 'similarity': 1.0})
    >>> round(Contains().score(Example("What is the capital of France?", "Paris"), "It is Par").reward, 3)
    0.06

Regex. The share of the patterns that are found, which is dense as soon as there are several: here the right
answer is one half, and to end in a full stop the other:

    >>> task = Regex(pattern=[r"\b{target}\b", r"\.$"])
    >>> task.score(Example("What is the capital of France?", "Paris"), "Paris")
    Score(reward=0.5, metrics={'correct': False, 'exact': False})
    >>> task.score(Example("What is the capital of France?", "Paris"), "It is Paris.").reward
    1.0
"""

import re
import unicodedata
from difflib import SequenceMatcher
from typing import Any

from es_ray.errors import UserError
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.options import flag, share

TARGET = "{target}"
"""What stands for an example's target in a pattern of the options."""
COMPARED = 1000
"""Characters of a text that similarity looks at: its time grows with the product of both lengths."""


class ExactMatch(Task):
    """Reward 1 if the completion is the target, else `dense` times its similarity to it.

    case: whether upper and lower case differ; normalize: pass over a final full stop and how much white space
    there is; dense: from 0 (sparse) to 1. A target that is a list names several right answers. Metrics:
    correct and exact (both: it is the target), similarity.
    """

    def __init__(self, case: bool = False, normalize: bool = True, dense: float = 0.1) -> None:
        self._case, self._normalize = flag("case", case), flag("normalize", normalize)
        self._dense = share("dense", dense)

    def score(self, example: Example, completion: str) -> Score:
        """Compare with each right answer."""
        text = _plain(completion, self._case, self._normalize)
        wanted = [_plain(target, self._case, self._normalize) for target in texts(example)]
        right = text in wanted
        near = 1.0 if right else max(_ratio(text, target) for target in wanted)
        reward = 1.0 if right else self._dense * near
        return Score(reward, {"correct": right, "exact": right, "similarity": near})


class Contains(Task):
    """Reward 1 if the completion contains the target, else `dense` times the share of it that is there.

    text: what must be there in place of each example's target, one text or a list of which any will do;
    case, normalize, dense: as for exact-match; words: the target must not be a part of a longer word.
    Metrics: correct (it is there), exact (nothing else is), similarity.
    """

    def __init__(
        self,
        text: str | list[str] | None = None,
        case: bool = False,
        normalize: bool = True,
        words: bool = True,
        dense: float = 0.1,
    ) -> None:
        self._text = None if text is None else _given("text", text)
        self._case, self._normalize = flag("case", case), flag("normalize", normalize)
        self._dense = share("dense", dense)
        self._edges = (r"(?<!\w)", r"(?!\w)") if flag("words", words) else ("", "")

    def score(self, example: Example, completion: str) -> Score:
        """Look for each text that will do."""
        text = _plain(completion, self._case, self._normalize)
        sought = self._text if self._text is not None else texts(example)
        wanted = [_plain(target, self._case, self._normalize) for target in sought]
        before, after = self._edges
        there = any(re.search(before + re.escape(target) + after, text) for target in wanted)
        near = 1.0 if there else max(_piece(text, target) for target in wanted)
        reward = 1.0 if there else self._dense * near
        return Score(reward, {"correct": there, "exact": text in wanted, "similarity": near})


class Regex(Task):
    """Reward: the share of the patterns that the completion matches.

    pattern: a regular expression of Python's `re`, or a list of them, in which {target} stands for the
    example's target as it is written; None: the target is the pattern, or the list of them. case: whether
    upper and lower case differ; whole: a pattern must match the whole completion, not a part of it.
    Metrics: correct (all are found), exact (all match the whole completion). A pattern whose search explodes
    ends at `task.timeout`.
    """

    def __init__(
        self, pattern: str | list[str] | None = None, case: bool = True, whole: bool = False
    ) -> None:
        self._flags = re.DOTALL | (0 if flag("case", case) else re.IGNORECASE)
        self._whole = flag("whole", whole)
        self._patterns = None if pattern is None else _given("pattern", pattern)
        for given in self._patterns or ():
            try:
                re.compile(given.replace(TARGET, "target"))
            except re.error as error:
                raise UserError(f"task.options.pattern: {given!r} is no pattern: {error}") from error

    def score(self, example: Example, completion: str) -> Score:
        """Try each pattern."""
        text = completion.strip()
        patterns = [re.compile(pattern, self._flags) for pattern in self._of(example)]
        whole = [pattern.fullmatch(text) is not None for pattern in patterns]
        found = whole if self._whole else [pattern.search(text) is not None for pattern in patterns]
        return Score(sum(found) / len(found), {"correct": all(found), "exact": all(whole)})

    def _of(self, example: Example) -> list[str]:
        if self._patterns is None:
            return texts(example)
        if not any(TARGET in pattern for pattern in self._patterns):
            return self._patterns
        target = "|".join(map(re.escape, texts(example)))
        return [pattern.replace(TARGET, f"(?:{target})") for pattern in self._patterns]


def texts(example: Example) -> list[str]:
    """The target's texts: a string, a number, or a list of them. Raises ValueError for anything else."""
    targets = example.target if isinstance(example.target, (list, tuple)) else [example.target]
    if not targets or not all(isinstance(target, (str, int, float)) for target in targets):
        raise ValueError(f"the target must be a text, a number or a list of them, not {example.target!r}")
    found = [str(target) for target in targets]
    if not all(text.strip() for text in found):
        raise ValueError("the target is empty, so that everything would contain it")
    return found


def _given(key: str, value: Any) -> list[str]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise UserError(f"task.options.{key}: {value!r} must be a text, or a list of texts")
    return found


def _plain(text: str, case: bool, normalize: bool) -> str:
    """The text as it is compared."""
    text = unicodedata.normalize("NFC", text).strip()
    if normalize:
        text = " ".join(text.split())
        text = text.removesuffix(".").rstrip() or text
    return text if case else text.casefold()


def _ratio(text: str, target: str) -> float:
    return SequenceMatcher(None, text[:COMPARED], target[:COMPARED], autojunk=False).ratio()


def _piece(text: str, target: str) -> float:
    """The share of the target's characters in the longest piece of it that the text has."""
    target = target[:COMPARED]
    match = SequenceMatcher(None, text[:COMPARED], target, autojunk=False).find_longest_match()
    return match.size / len(target)
