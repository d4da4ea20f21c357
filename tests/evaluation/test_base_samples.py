"""Samples of the base model on disk."""

import numpy as np

from es_ray.evaluation.base_samples import BaseSample, of_lines, to_lines


def test_what_is_read_has_the_bits_that_were_written():
    rng = np.random.default_rng(0)
    wanted = [
        BaseSample((1, 2), [3] * size, -np.exp(rng.normal(size=size) * 9).astype(np.float32))
        for size in (1, 50, 0)
    ]
    content = to_lines(wanted)
    assert len(content.splitlines()) == 3
    for one, other in zip(of_lines(content.encode()), wanted, strict=True):
        assert (list(one.prompt_ids), one.token_ids) == (list(other.prompt_ids), other.token_ids)
        assert one.log_probs.dtype == np.float32 and one.log_probs.tobytes() == other.log_probs.tobytes()
