"""Samples of the base model, and how they are written: a line of JSON for each."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class BaseSample(NamedTuple):
    """What the base model answered to a prompt, sampled at temperature 1.

    log_probs: of each token of the answer, float32, shape [tokens].
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    log_probs: NDArray[np.float32]


def to_lines(samples: Iterable[BaseSample]) -> str:
    """Lines that `of_lines` reads to the same bits."""
    plain = ({**each._asdict(), "log_probs": each.log_probs.tolist()} for each in samples)
    return "".join(f"{json.dumps(each)}\n" for each in plain)


def of_lines(content: bytes) -> list[BaseSample]:
    """The samples of `to_lines`."""
    found = [BaseSample(**json.loads(line)) for line in content.splitlines()]
    return [each._replace(log_probs=np.array(each.log_probs, dtype=np.float32)) for each in found]
