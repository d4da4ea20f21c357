"""A check that logits are finite, in SGLang's scheduler process."""

import functools
from typing import Any

import torch
from torch import Tensor


class FiniteLogitsCheck:
    """Whether all logits since the last `take_result` had a finite maximum: one number, on the GPU."""

    def __init__(self) -> None:
        self._worst: Tensor | None = None

    def observe(self, logits: Tensor | None, tokens: Tensor) -> None:
        """Check a batch's logits, shape [rows, vocabulary], at the tokens that argmax chose.

        NaN is the largest to argmax: so the chosen one is not finite if any is NaN or +inf, or none is
        finite, and the others need not be read again.
        """
        if logits is not None and len(logits):
            # three kernels after every step: the largest magnitude, in which NaN counts as the largest
            self._note(logits.gather(1, tokens.long()[:, None]))

    def observe_before_draw(self, logits: Tensor | None) -> None:
        """Check a batch's logits before tokens are sampled from them.

        Rows without a finite maximum become zeros: sampling from NaN fails an assertion on the device, which
        ends the process before the variant can be named.
        """
        if logits is not None and len(logits):
            largest = logits.amax(dim=-1, keepdim=True)
            self._note(largest)
            logits.masked_fill_(~largest.isfinite(), 0.0)

    def _note(self, largest: Tensor) -> None:
        worst = torch.linalg.vector_norm(largest, torch.inf)
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)

    def take_result(self) -> bool:
        """Whether all were finite; then resets."""
        worst, self._worst = self._worst, None
        return worst is None or bool(worst.isfinite())


logits_check = FiniteLogitsCheck()


def check_logits() -> None:
    """Check the logits that SGLang's sampler uses: it silently takes a token from NaN."""
    from sglang.srt.layers.sampler import Sampler

    original = Sampler.forward

    @functools.wraps(original)
    def forward(sampler: Any, logits_output: Any, sampling_info: Any, *args: Any, **kwargs: Any) -> Any:
        if not sampling_info.is_all_greedy:  # the sampler overwrites the logits
            logits_check.observe_before_draw(logits_output.next_token_logits)
            return original(sampler, logits_output, sampling_info, *args, **kwargs)
        tokens = original(sampler, logits_output, sampling_info, *args, **kwargs)
        logits_check.observe(logits_output.next_token_logits, tokens)
        return tokens

    Sampler.forward = forward
