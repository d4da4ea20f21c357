"""Rows as SGLang's requests, and its outputs as completions."""

import numpy as np
import pytest

from es_ray.engines.base import Row, Sampling, Variant
from es_ray.engines.sglang import requests
from es_ray.errors import EvaluationError

COMMON = {"max_new_tokens": 9, "stop_token_ids": [2]}
GREEDY = {"temperature": 0.0, **COMMON}


def row(*sampling) -> Row:
    return Row(Variant(0), (1,), Sampling(*sampling) if sampling else None)


def test_greedy_rows_share_one_dict():
    assert requests.sampling_params([row(), row()], COMMON) == GREEDY


def test_sampled_rows_have_a_dict_each_and_the_others_stay_greedy():
    assert requests.sampling_params([row(7), row(), row(8, 0.5, 0.9)], COMMON) == [
        {"temperature": 1.0, "top_p": 1.0, "sampling_seed": 7, **COMMON},
        GREEDY,
        {"temperature": 0.5, "top_p": 0.9, "sampling_seed": 8, **COMMON},
    ]


def test_rows_that_are_sampled_in_different_ways_are_kept_apart():
    asked = [row(1), row(), row(2, 0.5, 0.9), row(3, 2.0), row()]
    assert requests.by_sampler(asked) == [[0, 3], [1, 4], [2]]
    assert requests.by_sampler([row(), row()]) == [[0, 1]]


OUTPUT = {
    "output_ids": [8, 2],
    "meta_info": {
        "finish_reason": {"type": "stop", "matched": 2},
        "input_token_logprobs": [(None, 5, None), (-1.5, 6, None), (-0.25, 7, None)],
        "output_token_logprobs": [(-0.125, 8, None), (-3.0, 2, None)],
    },
}


def test_a_completion_ends_with_a_stop_token_or_for_its_length():
    found = requests.completion(OUTPUT, {2}, log_probs=True)
    assert (found.token_ids, found.finish_reason) == ([8, 2], "stop")
    assert found.log_probs.dtype == np.float32
    assert found.log_probs.tolist() == [-0.125, -3.0]
    found = requests.completion(OUTPUT, {3}, log_probs=False)
    assert (found.finish_reason, found.log_probs) == ("length", None)


def test_the_inputs_last_tokens_have_log_probabilities():
    assert requests.input_log_probs(OUTPUT, 2).tolist() == [-1.5, -0.25]
    assert requests.input_log_probs(OUTPUT, 1).tolist() == [-0.25]
    assert requests.input_log_probs(OUTPUT, 0).shape == (0,)


@pytest.mark.parametrize("finish", [None, {"type": "abort", "message": "too long"}])
def test_an_aborted_request_is_an_error_with_the_variants_name(finish):
    requests.check_finished(OUTPUT, "member 3")
    with pytest.raises(EvaluationError, match="member 3: SGLang did not finish"):
        requests.check_finished({"output_ids": [], "meta_info": {"finish_reason": finish}}, "member 3")
