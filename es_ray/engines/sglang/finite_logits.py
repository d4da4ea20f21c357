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
        if logits is not None and len(logits):
            # three kernels after every step: the largest magnitude, to which NaN is larger than all
            self._note(logits.gather(1, tokens.long()[:, None]))

    def look_before_draw(self, logits: Tensor | None) -> None:
        """Take a batch's logits into account before tokens are drawn from them.

        Rows without a finite maximum become zeros: a draw from NaN is an assertion on the device, which ends
        the process before anybody can say whose row it was.
        """
        if logits is not None and len(logits):
            largest = logits.amax(dim=-1, keepdim=True)
            self._note(largest)
            logits.masked_fill_(~largest.isfinite(), 0.0)

    def _note(self, largest: Tensor) -> None:
        worst = torch.linalg.vector_norm(largest, torch.inf)
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)

    def answer(self) -> bool:
        """Whether all were finite; starts anew."""
        worst, self._worst = self._worst, None
        return worst is None or bool(worst.isfinite())


logits_check = FiniteLogitsCheck()


def check_logits() -> None:
    """Look at the logits that SGLang's sampler took its tokens from: it takes one from NaN without a word."""
    from sglang.srt.layers.sampler import Sampler

    original = Sampler.forward

    @functools.wraps(original)
    def forward(sampler: Any, logits_output: Any, sampling_info: Any, *args: Any, **kwargs: Any) -> Any:
        if not sampling_info.is_all_greedy:  # the sampler overwrites the logits
            logits_check.look_before_draw(logits_output.next_token_logits)
            return original(sampler, logits_output, sampling_info, *args, **kwargs)
        tokens = original(sampler, logits_output, sampling_info, *args, **kwargs)
        logits_check.look(logits_output.next_token_logits, tokens)
        return tokens

    Sampler.forward = forward
