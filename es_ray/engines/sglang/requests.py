"""Rows as SGLang's requests, and SGLang's outputs as completions and log-probabilities."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import Completion, Row, Sampling
from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.slots import SlotOf, adapter_of
from es_ray.errors import EvaluationError

Output = Mapping[str, Any]
"""What SGLang returns for one request."""
OnOutput = Callable[[int, Output], None]
"""Called with the number of a request in its call, and its output when it has finished."""


def arguments(
    rows: Sequence[Row], slot_of: SlotOf, new_tokens: int, stop_ids: Collection[int] | None
) -> dict[str, Any]:
    """Arguments of `sglang.Engine.async_generate` for the rows; stop_ids: None for rows of full length."""
    common: dict[str, Any] = {"max_new_tokens": new_tokens}
    if stop_ids is not None:  # SchedulerHost removed the model's own from SGLang
        common["stop_token_ids"] = sorted(stop_ids)
    adapters = [adapter_of(row.variant) for row in rows]
    return {
        "input_ids": [list(row.prompt_ids) for row in rows],
        "sampling_params": sampling_params(rows, common),
        "lora_path": [None if a is None else adapter_name(slot_of[a]) for a in adapters],
    }


def sampling_params(rows: Sequence[Row], common: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
    """SGLang's sampling parameters: one dict if all rows are greedy, else one for each row.

    common: parameters of all rows.
    """
    greedy = {"temperature": 0.0, **common}
    if all(row.sampling is None for row in rows):
        return greedy
    return [
        greedy
        if row.sampling is None
        else {
            "temperature": row.sampling.temperature,
            "top_p": row.sampling.top_p,
            "sampling_seed": row.sampling.seed,
            **common,
        }
        for row in rows
    ]


def by_sampler(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows by the method of SGLang's sampler: one call for each.

    It uses one method for a batch: argmax, a sample from the softmax, or a sample from the sorted softmax,
    for which the same seed gives another token. A row's tokens would depend on the other rows.
    """
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(_sampler(row.sampling), []).append(number)
    return list(found.values())


def renumbered(numbers: Sequence[int], on_output: OnOutput) -> OnOutput:
    """On_output for a call of some requests only, whose numbers among all are given."""
    return lambda number, output: on_output(numbers[number], output)


def _sampler(sampling: Sampling | None) -> str:
    if sampling is None:
        return "argmax"
    return "softmax" if sampling.top_p == 1.0 else "sorted softmax"


def check_finished(output: Output, who: str) -> None:
    """Raise EvaluationError, with the variant's name, for a request that SGLang aborted."""
    finish = output["meta_info"]["finish_reason"] or {}
    if finish.get("type") not in ("stop", "length"):
        raise EvaluationError(f"{who}: SGLang did not finish: {finish.get('message', finish)}")


def completion(output: Output, stop_ids: Collection[int], log_probs: bool) -> Completion:
    """A finished request's completion; stop_ids: tokens that end one."""
    tokens = list(output["output_ids"])
    return Completion(
        tokens,
        "stop" if tokens and tokens[-1] in stop_ids else "length",
        output_log_probs(output, len(tokens)) if log_probs else None,
    )


def output_log_probs(output: Output, count: int) -> NDArray[np.float32]:
    """The log-probabilities of the first `count` generated tokens."""
    return _values(output["meta_info"]["output_token_logprobs"][:count])


def input_log_probs(output: Output, count: int) -> NDArray[np.float32]:
    """The log-probabilities of the last `count` tokens of the input; its first token has none."""
    entries = output["meta_info"]["input_token_logprobs"]
    return _values(entries[len(entries) - count :])


def _values(entries: Sequence[Sequence[Any]]) -> NDArray[np.float32]:
    """Each entry is log-probability, token id and text."""
    return np.array([entry[0] for entry in entries], dtype=np.float32)
