"""Completions on a page: with their scores, the long ones folded, and never more than a page can hold."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import escape

from es_ray.judge.report.text import cut, number, visible
from es_ray.judge.table import NOT_METRICS, SHARES

Record = Mapping[str, Any]
"""One completion with its score, as files have it."""
MOST_BYTES: Final = 500_000
"""Of the text of questions and answers, as it is on the page."""
LONGEST: Final = 3000
"""Characters of a text that are shown."""
FOLDED: Final = 280
"""Characters of a longer answer that are shown before it is opened."""


@dataclass(frozen=True)
class Answer:
    """One completion. chips: (text, kind) of its metrics, right, wrong or plain; note: which of several."""

    who: str
    text: str
    reward: str
    chips: Sequence[tuple[str, str]]
    note: str = ""

    @property
    def start(self) -> str:
        """What is shown of a long one before it is opened."""
        return self.text[:FOLDED]

    @property
    def is_long(self) -> bool:
        """Whether it is folded."""
        return len(self.text) > FOLDED * 1.3


@dataclass(frozen=True)
class Question:
    """A prompt, what was wanted, and the answers to it."""

    prompt: str
    target: str
    answers: Sequence[Answer]

    @property
    def size(self) -> int:
        """Bytes of its text on the page, where the start of what is folded stands twice."""
        texts = [self.prompt, self.target, *(part for one in self.answers for part in (one.text, one.start))]
        return sum(len(escape(visible(text)).encode()) for text in texts)


def question(answers: Mapping[str, Sequence[Record]]) -> Question:
    """Answers to one prompt by who gave them, each with all of its samples."""
    asked = next(iter(answers.values()))[0]
    target = asked.get("target")
    text = target if isinstance(target, str) else "" if target is None else json.dumps(target)
    return Question(
        cut(str(asked["prompt"]), LONGEST),
        cut(text, LONGEST),
        [_answer(who, samples) for who, samples in answers.items()],
    )


def prompts_of(examples: Sequence[Record]) -> list[list[Record]]:
    """The answers to each prompt: several where they were sampled."""
    found: list[list[Record]] = []
    for example in examples:
        if example.get("sample") and found:
            found[-1].append(example)
        else:
            found.append([example])
    return found


def within_bytes(questions: Iterable[Question], most: int = MOST_BYTES) -> list[Question]:
    """The first questions that are not too much for a page together."""
    found, size = [], 0
    for one in questions:
        size += one.size
        if size > most:
            break
        found.append(one)
    return found


def _answer(who: str, samples: Sequence[Record]) -> Answer:
    first = samples[0]
    chips = [_chip(name, first[name]) for name in first if name not in NOT_METRICS]
    if first.get("finish") == "length":
        chips.append(("cut at the token limit", "plain"))
    note = f"the first of {len(samples)} samples" if len(samples) > 1 else ""
    return Answer(who, cut(first["completion"], LONGEST), number("reward", first["reward"]), chips, note)


def _chip(name: str, value: Any) -> tuple[str, str]:
    if name in SHARES and value in (0, 1):
        return (f"✓ {name}", "right") if value else (f"✗ not {name}", "wrong")
    return f"{name} {number(name, float(value))}", "plain"
