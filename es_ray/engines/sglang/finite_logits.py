"""Whether the logits stayed finite, in SGLang's scheduler process."""

import functools
from typing import Any

import torch
from torch import Tensor


class FiniteLogitsCheck:
    """Whether all logits since the last question had a finite maximum: one number, on the GPU."""

    def __init__(self) -> None:
        self._worst: Tensor | None = None

    def look(self, logits: Tensor | None, tokens: Tensor) -> None:
        """Take a batch's logits into account, shape [rows, vocabulary], by the tokens that argmax chose.

        NaN is the largest to argmax: so the chosen one is not finite if one is NaN or infinite, or none is
        finite, and the others need no reading again.
        """
        if logits is None or not len(logits):
            return
        # three kernels after every step: the largest magnitude, to which NaN is larger than all
        worst = torch.linalg.vector_norm(logits.gather(1, tokens.long()[:, None]), torch.inf)
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)

    def answer(self) -> bool:
        """Whether all were finite; starts anew."""
        worst, self._worst = self._worst, None
        return worst is None or bool(worst.isfinite())


watch = FiniteLogitsCheck()


def check_logits() -> None:
    """Look at the logits that SGLang's sampler took its tokens from: it takes one from NaN without a word."""
    from sglang.srt.layers.sampler import Sampler

    original = Sampler.forward

    @functools.wraps(original)
    def forward(sampler: Any, logits_output: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = original(sampler, logits_output, *args, **kwargs)
        watch.look(logits_output.next_token_logits, tokens)
        return tokens

    Sampler.forward = forward
