"""The selected centre of a run: the one to use, not always the last. Never chosen by test prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

BY_REWARD: Final = {
    "validation": "the highest validation reward",
    "train": "the highest training reward",
}
BY_ORDER: Final = "the last one"
OF_ALL: Final = "; every centre has a verdict of the guard"


@dataclass(frozen=True)
class JudgedCentre:
    """A centre: the generation after whose update it came about (-1: the start), and what is known of it."""

    generation: int
    reward: float | None
    verdicts: tuple[str, ...] = ()


def select(centres: Sequence[JudgedCentre], by_reward: bool) -> JudgedCentre | None:
    """The selected one of the centres without a verdict; None if there is none.

    centres: in their order; by_reward: the highest reward, the earliest on ties, of those that have one; else
    the last.
    """
    free = [centre for centre in centres if not centre.verdicts]
    if not by_reward:
        return free[-1] if free else None
    rewarded = [centre for centre in free if centre.reward is not None]
    return max(rewarded, key=lambda centre: (centre.reward, -centre.generation), default=None)


def selected_record(centres: Sequence[JudgedCentre], split: str, by_reward: bool) -> dict[str, Any]:
    """selected.json: the selected centre, why, and its reward on the split; the same of all if none is free.

    centres: at least one, with a reward if by_reward.
    """
    chosen, why = select(centres, by_reward), BY_REWARD[split] if by_reward else BY_ORDER
    if chosen is None:
        unjudged = [JudgedCentre(centre.generation, centre.reward) for centre in centres]
        number = select(unjudged, by_reward)
        assert number is not None
        chosen = next(centre for centre in centres if centre.generation == number.generation)
        why += OF_ALL
    return {
        "generation": chosen.generation,
        "why": why,
        "split": split,
        "reward": chosen.reward,
        "verdicts": list(chosen.verdicts),
    }
