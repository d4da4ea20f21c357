"""Whether the logits stayed finite, in SGLang's scheduler process."""

import functools
from typing import Any

from torch import Tensor


class LogitsWatch:
    """Whether all logits since the last question had a finite maximum: one flag, on the GPU."""

    def __init__(self) -> None:
        self._finite: Tensor | None = None

    def look(self, logits: Tensor | None, tokens: Tensor) -> None:
        """Take a batch's logits into account, shape [rows, vocabulary], by the tokens that argmax chose.

        NaN is the largest to argmax: so the chosen one is not finite if one is NaN or infinite, or none is
        finite, and the others need no reading again.
        """
        if logits is None:
            return
        finite = logits.gather(1, tokens.long()[:, None]).isfinite().all()
        self._finite = finite if self._finite is None else self._finite & finite

    def answer(self) -> bool:
        """Whether all were finite; starts anew."""
        seen, self._finite = self._finite, None
        return seen is None or bool(seen)


watch = LogitsWatch()


def watch_logits() -> None:
    """Look at the logits that SGLang's sampler took its tokens from: it takes one from NaN without a word."""
    from sglang.srt.layers.sampler import Sampler

    original = Sampler.forward

    @functools.wraps(original)
    def forward(sampler: Any, logits_output: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = original(sampler, logits_output, *args, **kwargs)
        watch.look(logits_output.next_token_logits, tokens)
        return tokens

    Sampler.forward = forward
