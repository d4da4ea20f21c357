"""What SGLang's scheduler does with each decoding step's tokens, shortened for rows that just go on.

For every request of every step it looks, in Python, for stop strings, a grammar, a stream to feed and more.
With 3,000 rows that takes longer than the GPU takes for the step, so the GPU waits. For a request with none
of these, and a token that does not end it, all of that comes to one thing: its token is appended. That is
done here, and SGLang's own method is left with the requests that end, or that ask for more.
"""

import copy
import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

log = logging.getLogger(__name__)

READ: Final = {
    "SchedulerBatchResultProcessor": (
        "process_batch_result_decode",
        "_normalize_decode_outputs",
        "_handle_finish_state_updated_req",
        "_mamba_prefix_cache_update",
        "_maybe_collect_customized_info",
        "_maybe_update_reasoning_tokens",
    ),
    "Req": (
        "update_finish_state",
        "_check_vocab_boundary_finish",
        "_check_str_based_finish",
        "_check_token_based_finish",
    ),
    "SchedulerOutputStreamer": ("stream_output", "_stream_output_generation"),
}
"""The methods whose source was read for this, by class: another source is left alone."""
DIGEST: Final = "f886ac938e3e122cfb64672aa28eafb9094945ed290e317b5cbd95f3f2808584"
"""The SHA-256 of their source in SGLang 0.5.17."""


def shorten() -> None:
    """Put `shortened` around SGLang's method, in the scheduler's process, if its source is the one known."""
    try:
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.managers.scheduler_components.batch_result_processor import (
            SchedulerBatchResultProcessor,
        )
        from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer
    except ImportError:  # they are elsewhere in another version
        found = ""
    else:
        found = digest([SchedulerBatchResultProcessor, Req, SchedulerOutputStreamer])
    if found != DIGEST:
        log.warning("SGLang's source is not the one known: its decoding results are processed as it does")
        return
    SchedulerBatchResultProcessor.process_batch_result_decode = shortened(
        SchedulerBatchResultProcessor.process_batch_result_decode
    )


def digest(classes: Sequence[type]) -> str:
    """The SHA-256 of the source of the methods in READ; "" if one is missing."""
    try:
        source = [inspect.getsource(getattr(cls, name)) for cls in classes for name in READ[cls.__name__]]
    except (AttributeError, OSError):
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
    """Whether a step's tokens are one for each request, and nothing else is asked of it."""
    from sglang.srt.runtime_context import get_disagg, get_observability

    logits = result.logits_output
    return not (
        batch.return_logprob
        or batch.has_grammar
        or batch.return_hidden_states
        or not batch.spec_algorithm.is_none()
        or not hasattr(result.next_token_ids, "tolist")
        or result.routed_experts_output is not None
        or result.indexer_topk_output is not None
        or (logits is not None and logits.customized_info is not None)
        or get_observability().enable_metrics
        or get_disagg().disaggregation_decode_enable_offload_kvcache
    )
