"""What SGLang's scheduler does with each decoding step's tokens, shortened for rows that just go on.

For every request of every step it looks, in Python, for stop strings, a grammar, a stream to feed and more.
With 3,000 rows that took 24 ms on one CPU, and takes 5 so (benchmarks/NOTES.md). For a request with none of
these, and a token that does not end it, all of that comes to one thing: its token is appended. That is done
here, and SGLang's own method is left with the requests that end, or that ask for more.

Two things are left out that nothing reads: the time of each token, which SGLang keeps for metrics and traces,
and the tokens so far, which it sends every 50 tokens. They are sent when the request ends.
"""

import copy
import functools
import hashlib
import importlib
import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

log = logging.getLogger(__name__)

PACKAGE: Final = "sglang.srt.managers"
COMPONENTS: Final = f"{PACKAGE}.scheduler_components"
READ: Final = {
    (f"{COMPONENTS}.batch_result_processor", "SchedulerBatchResultProcessor"): (
        "process_batch_result_decode",
        "_normalize_decode_outputs",
        "_handle_finish_state_updated_req",
        "_mamba_prefix_cache_update",
        "_maybe_collect_customized_info",
        "_maybe_update_reasoning_tokens",
    ),
    (f"{PACKAGE}.schedule_batch", "Req"): (
        "finished",
        "update_finish_state",
        "_check_vocab_boundary_finish",
        "_check_str_based_finish",
        "_check_token_based_finish",
    ),
    (f"{COMPONENTS}.output_streamer", "SchedulerOutputStreamer"): (
        "stream_output",
        "_stream_output_generation",
    ),
    (f"{COMPONENTS}.output_streamer", "_GenerationStreamAccumulator"): ("accept", "to_payload"),
    (f"{COMPONENTS}.metrics_reporter", "SchedulerMetricsReporter"): ("report_decode_stats",),
    ("sglang.srt.observability.req_time_stats", "SchedulerReqTimeStats"): ("set_last_decode_finish_time",),
}
"""The methods whose source was read for this, by module and class: another source is left alone."""
DIGEST: Final = "7f6fb582ab9a17375ff51e3d4b7d4f5f965da33923ce8a8e7483dcb1d70d1960"
"""The SHA-256 of their source in SGLang 0.5.17."""
_reporter_log = logging.getLogger(f"{COMPONENTS}.metrics_reporter")


def shorten() -> None:
    """Put `shortened` around SGLang's method, in the scheduler's process, if its source is the one known."""
    if digest() != DIGEST:
        log.warning("SGLang's source is not the one known: its decoding results are processed as it does")
        return
    from sglang.srt.managers.scheduler_components.batch_result_processor import SchedulerBatchResultProcessor

    SchedulerBatchResultProcessor.process_batch_result_decode = shortened(
        SchedulerBatchResultProcessor.process_batch_result_decode
    )


def digest() -> str:
    """The SHA-256 of the source of the methods in READ; "" if one is missing."""
    try:
        source = [
            inspect.getsource(getattr(getattr(importlib.import_module(module), owner), name))
            for (module, owner), names in READ.items()
            for name in names
        ]
    except (ImportError, AttributeError, OSError):  # elsewhere in another version
        return ""
    return hashlib.sha256("".join(source).encode()).hexdigest()


def shortened(original: Callable[..., None]) -> Callable[..., None]:
    """`SchedulerBatchResultProcessor.process_batch_result_decode`, called with fewer requests."""

    @functools.wraps(original)
    def process_batch_result_decode(processor: Any, batch: Any, result: Any) -> None:
        if not is_plain_step(processor, batch, result):
            original(processor, batch, result)
            return
        if result.copy_done is not None:
            result.copy_done.synchronize()
        tokens = result.next_token_ids.tolist()
        left = appended(batch.reqs, tokens, batch.model_config.vocab_size)
        processor.metrics_reporter.num_generated_tokens += len(batch.reqs) - len(left)
        fewer, result_of_fewer = copy.copy(batch), copy.copy(result)
        fewer.reqs = [batch.reqs[number] for number in left]
        result_of_fewer.next_token_ids = [tokens[number] for number in left]
        original(processor, fewer, result_of_fewer)

    return process_batch_result_decode


def appended(requests: Sequence[Any], tokens: Sequence[int], vocabulary: int) -> list[int]:
    """Append their tokens to the requests that go on; returns the numbers of the others."""
    if min(tokens, default=0) < 0 or max(tokens, default=0) >= vocabulary:
        return list(range(len(requests)))
    left = []
    for number, (request, token) in enumerate(zip(requests, tokens, strict=True)):
        try:
            ends = request._es_ray_ends
        except AttributeError:
            ends = request._es_ray_ends = ends_of(request)
        output = request.output_ids
        if (
            ends is None
            or token in ends
            or request.finished_reason is not None
            or request.to_finish is not None
            or request.is_retracted
            or len(output) + 1 >= request.sampling_params.max_new_tokens
        ):
            left.append(number)
        else:
            output.append(token)
    return left


def ends_of(request: Any) -> Collection[int] | None:
    """The tokens that end a request; None if SGLang does more for it than append its tokens."""
    sampling = request.sampling_params
    more = (
        request.stream,
        request.grammar,
        request.return_logprob,
        request.return_sampling_mask,
        request.return_hidden_states,
        request.return_routed_experts,
        request.return_indexer_topk,
        request.require_reasoning,
        sampling.stop_strs,
        sampling.stop_regex_strs,
    )
    objects = (request.tokenizer, request.multimodal_inputs, request.mamba_ping_pong_track_buffer)
    if any(more) or any(found is not None for found in objects):
        return None
    if sampling.ignore_eos:
        return ()
    return frozenset(sampling.stop_token_ids or ()) | frozenset(request.eos_token_ids or ())


def is_plain_step(processor: Any, batch: Any, result: Any) -> bool:
    """Whether SGLang does with all of a step's requests no more than append a token to each, or end it.

    Else it needs every request, in its place: for what a result has by place, its traces and its log.
    """
    from sglang.srt.runtime_context import get_disagg, get_observability

    logits, observed = result.logits_output, get_observability()
    return not (
        batch.return_logprob
        or batch.has_grammar
        or batch.return_hidden_states
        or not batch.spec_algorithm.is_none()
        or not hasattr(result.next_token_ids, "tolist")
        or result.routed_experts_output is not None
        or result.indexer_topk_output is not None
        or (logits is not None and logits.customized_info is not None)
        or (logits is not None and logits.next_token_sampling_mask_idx is not None)
        or observed.enable_metrics
        or observed.enable_trace
        or is_logged(processor.metrics_reporter)
        or get_disagg().disaggregation_decode_enable_offload_kvcache
    )


def is_logged(reporter: Any) -> bool:
    """Whether SGLang logs a line after this step, with the number of its requests."""
    steps = reporter.forward_ct_decode + 1
    return steps % reporter.decode_log_interval == 0 and _reporter_log.isEnabledFor(logging.INFO)
