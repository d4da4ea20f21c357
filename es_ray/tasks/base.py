"""What a task is: examples with targets, and a score for a completion."""

import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.errors import ScoreError

Message = Mapping[str, str]
"""A turn of a chat: {"role": "system" | "user" | "assistant", "content": text}."""


@dataclass(frozen=True)
class Example:
    """What is asked, what is wanted, and every other field of the row.

    prompt: the last user message; target: a string, a number, or None where the task needs none; messages:
    the whole chat, by default the prompt as one user message; where: file and line that it was read from, for
    messages of errors; no part of what the example is.
    """

    prompt: str
    target: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: str = field(default="", compare=False, repr=False)
    messages: Sequence[Message] = field(default=(), hash=False)

    def __post_init__(self) -> None:
        if not self.messages:
            object.__setattr__(self, "messages", ({"role": "user", "content": self.prompt},))


@dataclass(frozen=True)
class Score:
    """What a completion is worth: the reward evolves the model, the metrics only watch it.

    metrics: numbers by name, the same names for every completion of a task. By convention `correct` is
    whether the answer is right, and `exact` whether it is nothing else.
    """

    reward: float
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)


Data = Sequence[Example] | str | Path
"""Examples, or a data file of them as `task.train` names one."""


class Task(ABC):
    """A reward over examples.

    Its constructor takes `task.options` as keyword arguments. train, test, validation: the data that a run
    without others takes, as class attributes or properties; None where the user must give them. A task
    whose `score` is a coroutine function (`async def`) waits for many completions at once.
    """

    train: Data | None = None
    test: Data | None = None
    validation: Data | None = None

    def example(self, row: Mapping[str, Any], where: str) -> Example | None:
        """An example made from a row that has no prompt of its own; None if the task cannot make one.

        row: the fields of a line of data; where: its file and line, to be handed on to the Example. Raises
        UserError for a row that lacks what the task needs.
        """
        return None

    def check_example(self, example: Example) -> None:
        """Raise UserError if the task cannot score answers to this example; to be overridden.

        Called for each example before a run starts, so that a target that is missing, or of a kind that the
        task does not take, is found there. `example_name` says where an example was read.
        """
        return

    @abstractmethod
    def score(self, example: Example, completion: str) -> Any:
        """Score one completion: text alone, without prompt and special tokens, stripped.

        Returns a Score, or a number as the reward without metrics.
        """

    def score_batch(self, examples: Sequence[Example], completions: Sequence[str]) -> Sequence[Any]:
        """Score many completions at once, in their order; to be overridden where that is faster.

        Called with the completions of one batch of the engine.
        """
        return [self.score(*pair) for pair in zip(examples, completions, strict=True)]

    def normalized_reward(self, reward: float) -> float | None:
        """A completion's reward on the scale on which publications report it; to be overridden.

        For reports alone: nothing is evolved by it. None where there is no such scale.
        """
        return None


RESERVED = (
    "prompt", "target", "sample", "completion", "reward", "tokens", "finish", "examples", "index",
    "generation", "advantage", "worker", "answers", "candidate", "characters", "example", "kl",
    "kl_forward",
)  # fmt: skip
"""What files and tables hold under these names is not a metric's."""


def example_name(example: Example) -> str:
    """How messages name an example: where it was read from, or its prompt."""
    return example.where or f"the prompt {textwrap.shorten(example.prompt, 80, placeholder=' ...')!r}"


def no_target(example: Example, wanted: str) -> str:
    """What to say about an example whose target is missing, or not what the task wants."""
    if example.target is not None:
        return f"the target must be {wanted}, not {_shown(example.target)}"
    there = ", ".join(map(repr, example.metadata)) or "none"
    return f"needs a target ({wanted}); the other fields there are {there}; task.columns.target names one"


def checked(score: object, who: str, example: Example) -> Score:
    """The score, if it is one, of finite numbers; raises ScoreError if not, with the candidate's name."""
    what = f"for {example_name(example)} ({who})"
    if not isinstance(score, Score) or not isinstance(score.metrics, Mapping):
        wanted, given = "a Score or a number", score
        if isinstance(score, Score):
            wanted, given = "metrics as a mapping of names to numbers", score.metrics
        raise ScoreError(f"the task must return {wanted}, not {_shown(given)}, {what}")
    for name, value in {"reward": score.reward, **score.metrics}.items():
        if not isinstance(name, str):
            raise ScoreError(f"a metric's name must be a string, not {_shown(name)}, {what}")
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            raise ScoreError(f"{name} must be a number, not {_shown(value)}, {what}")
        if not _is_finite(value):
            # an integer has no infinity, but may be too long to be shown
            shown = "beyond 1.8e308" if isinstance(value, int) else value
            raise ScoreError(f"{name} {shown} is not finite, {what}")
    taken = [name for name in score.metrics if name in RESERVED or name.startswith("pass@")]
    if taken:
        raise ScoreError(f"a metric cannot be called {taken[0]!r}: files use that name; {what}")
    return score


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False


def _shown(value: object) -> str:
    return f"{type(value).__name__} {textwrap.shorten(repr(value), 60, placeholder=' ...')}"
