"""Steps of decoding through SGLang's own classes, with its method as it is and shortened: no model runs."""

import logging
import random
from array import array
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from es_ray.engines.sglang import compat, decode_results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
VOCABULARY, REQUESTS, STEPS = 1000, 60, 75
LOG = "sglang.srt.managers.scheduler_components.metrics_reporter"


@pytest.fixture
def sglang(monkeypatch):
    """SGLang's modules, with settings in place of a started server's."""
    from sglang.srt import runtime_context
    from sglang.srt.managers import schedule_batch
    from sglang.srt.managers.scheduler_components import batch_result_processor, output_streamer

    settings = SimpleNamespace(
        enable_metrics=False,
        enable_trace=False,
        enable_request_time_stats_logging=False,
        disaggregation_decode_enable_offload_kvcache=False,
        enable_hisparse=False,
        stream_interval=1,
    )
    server = MagicMock()
    server.enable_mamba_extra_buffer_lazy.return_value = False
    for module in (runtime_context, schedule_batch, batch_result_processor, output_streamer):
        for name in ("get_disagg", "get_observability", "get_memory", "get_serving"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda: settings)
        if hasattr(module, "get_server_args"):
            monkeypatch.setattr(module, "get_server_args", lambda: server)
    return SimpleNamespace(
        requests=schedule_batch, results=batch_result_processor, streamer=output_streamer, server=server
    )


def requests(sglang, seed: int, more: bool) -> list:
    """more: some of them stream, or look for a string."""
    from sglang.srt.sampling.sampling_params import SamplingParams

    draw, found = random.Random(seed), []
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens=False: [1],
        decode=lambda ids: "y",
        eos_token_id=-5,
        additional_stop_token_ids=None,
    )
    for number in range(REQUESTS):
        strings = ["x"] if more and draw.random() < 0.1 else None
        sampling = SamplingParams(
            max_new_tokens=draw.choice([1, 2, 5, 20, 60, 70]),
            stop_token_ids=draw.choice([None, [7, 8], [900]]),
            ignore_eos=draw.random() < 0.3,
            temperature=0.0,
            stop=strings,
        )
        sampling.normalize(tokenizer if strings else None)
        one = sglang.requests.Req(
            f"r{number}",
            "",
            array("q", [1, 2, 3]),
            sampling,
            eos_token_ids=draw.choice([set(), {7}, {55}]),
            vocab_size=VOCABULARY,
            stream=more and draw.random() < 0.1,
        )
        if strings:
            one.tokenizer = tokenizer
        found.append(one)
    return found


def reporter() -> SimpleNamespace:
    """Keeps the number of running requests where SGLang's logs it."""

    def report_decode_stats(graph, running_batch, num_correct_drafts) -> None:
        if made.forward_ct_decode % made.decode_log_interval == 0:
            made.logged.append(len(running_batch.reqs))

    made = SimpleNamespace(
        num_generated_tokens=0,
        forward_ct_decode=0,
        decode_log_interval=7,
        logged=[],
        report_decode_stats=report_decode_stats,
    )
    return made


def processor(sglang, sent: list, released: list, monkeypatch):
    from sglang.srt.disaggregation.utils import DisaggregationMode
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    def release(request, tree_cache, is_insert=True) -> None:
        released.append(request.rid)

    monkeypatch.setattr(sglang.results, "release_kv_cache", release)
    streamer = sglang.streamer.SchedulerOutputStreamer(
        send_to_detokenizer=SimpleNamespace(send_output=sent.append),
        tree_cache=MagicMock(),
        ps=SimpleNamespace(dp_rank=0, attn_tp_rank=0),
        server_args=sglang.server,
        is_generation=True,
        spec_algorithm=SpeculativeAlgorithm.NONE,
        disaggregation_mode=DisaggregationMode.NULL,
        enable_hicache_storage=lambda: False,
    )
    nothing = dict.fromkeys(
        (
            "hisparse_coordinator", "decode_offload_manager", "metrics_collector", "draft_worker",
            "logprob_result_processor", "abort_request",
        )
    )  # fmt: skip
    return sglang.results.SchedulerBatchResultProcessor(
        is_generation=True,
        disaggregation_mode=DisaggregationMode.NULL,
        enable_overlap=True,
        enable_overlap_mlx=False,
        server_args=sglang.server,
        model_config=SimpleNamespace(think_end_ids=None, vocab_size=VOCABULARY),
        token_to_kv_pool_allocator=MagicMock(),
        tree_cache=MagicMock(),
        req_to_token_pool=MagicMock(),
        metrics_reporter=reporter(),
        model_worker=SimpleNamespace(),
        output_streamer=streamer,
        **nothing,
    )


def outcome(sglang, method, seed: int, more: bool, monkeypatch) -> tuple:
    """What becomes of requests that are decoded together: their ends, what was sent of each, and counts."""
    from sglang.srt.managers.utils import GenerationBatchResult
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    sent, released = [], []
    ours, mine = processor(sglang, sent, released, monkeypatch), requests(sglang, seed, more)
    draw, running = random.Random(seed + 100), list(mine)
    for step in range(STEPS):
        tokens = {one.rid: draw.randrange(VOCABULARY) for one in mine}
        for rid in tokens:
            if draw.random() < 0.02:
                tokens[rid] = draw.choice([7, 8, 55, 900])
            elif draw.random() < 0.0005:
                tokens[rid] = VOCABULARY + 3
        if step == 10 and len(running) > 5:
            running[3].to_finish = sglang.requests.FINISH_ABORT("stopped")
            running[5].is_retracted = True
        if step == 14:
            for one in mine:
                one.is_retracted = False
        batch = sglang.requests.ScheduleBatch(
            reqs=list(running), model_config=ours.model_config, spec_algorithm=SpeculativeAlgorithm.NONE
        )
        batch.return_logprob = batch.has_grammar = batch.return_hidden_states = False
        result = GenerationBatchResult(next_token_ids=torch.tensor([tokens[one.rid] for one in running]))
        before = [one for one in running if not one.finished()]
        method(ours, batch, result)
        running = before  # the next step is under way already: those that ended are in it once more
    received: dict[str, list] = {}
    for payload in sent:
        for rid, ids, reason in zip(payload.rids, payload.output_ids, payload.finished_reasons, strict=True):
            received.setdefault(rid, []).append((list(ids), reason))
    whole = {
        rid: (sum((ids for ids, _ in parts), []), [reason for _, reason in parts if reason])
        for rid, parts in received.items()
        if parts[-1][1]
    }
    ends = [
        (list(one.output_ids), one.finished_reason and one.finished_reason.to_json(), one.finished_len)
        for one in mine
    ]
    counts = ours.metrics_reporter
    return ends, whole, released, counts.num_generated_tokens, counts.forward_ct_decode, counts.logged


def test_the_source_is_the_one_that_was_read():
    if compat.version(compat.package()) != "0.5.17":
        pytest.skip("another version")
    assert decode_results.digest() == decode_results.DIGEST


@pytest.mark.parametrize("more", [False, True], ids=["plain", "some stream or look for strings"])
@pytest.mark.parametrize("seed", range(6))
def test_requests_end_as_with_sglangs_method(sglang, seed, more, monkeypatch, caplog):
    caplog.set_level(logging.INFO, LOG)
    original = sglang.results.SchedulerBatchResultProcessor.process_batch_result_decode
    shorter = decode_results.shortened(original)
    one, other = (outcome(sglang, method, seed, more, monkeypatch) for method in (original, shorter))
    assert one == other
    assert len(one[1]) > REQUESTS / 2 and sum(len(ids) for ids, _, _ in one[0]) > 10 * REQUESTS


def test_what_a_request_is_sent_for_each_token_is_its_own(sglang, monkeypatch):
    """The tokens that it was sampled from: by the request's place in the step."""
    from sglang.srt.layers.logits_processor import LogitsProcessorOutput
    from sglang.srt.managers.utils import GenerationBatchResult
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    original = sglang.results.SchedulerBatchResultProcessor.process_batch_result_decode
    found = []
    for method in (original, decode_results.shortened(original)):
        ours, mine = processor(sglang, [], [], monkeypatch), requests(sglang, 0, False)
        mine[4].return_sampling_mask = True
        mine[4].output_token_sampling_mask, mine[4].output_token_sampling_logprobs = [], []
        logits = LogitsProcessorOutput(
            next_token_logits=None, next_token_sampling_mask_idx=[[number] for number in range(REQUESTS)]
        )
        batch = sglang.requests.ScheduleBatch(
            reqs=mine, model_config=ours.model_config, spec_algorithm=SpeculativeAlgorithm.NONE
        )
        method(
            ours, batch, GenerationBatchResult(logits, next_token_ids=torch.ones(REQUESTS, dtype=torch.int64))
        )
        found.append(mine[4].output_token_sampling_mask)
    assert found == [[[4]], [[4]]]


def test_a_trace_has_every_step_of_a_request(sglang, monkeypatch):
    from sglang.srt.managers.scheduler_components import batch_result_processor
    from sglang.srt.managers.utils import GenerationBatchResult
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    batch_result_processor.get_observability().enable_trace = True
    method = decode_results.shortened(
        sglang.results.SchedulerBatchResultProcessor.process_batch_result_decode
    )
    ours, mine = processor(sglang, [], [], monkeypatch), requests(sglang, 0, False)
    steps = []
    for one in mine:
        one.time_stats = SimpleNamespace(
            set_last_decode_finish_time=lambda rid=one.rid: steps.append(rid),
            set_completion_time=lambda: None,
        )
    batch = sglang.requests.ScheduleBatch(
        reqs=mine, model_config=ours.model_config, spec_algorithm=SpeculativeAlgorithm.NONE
    )
    method(ours, batch, GenerationBatchResult(next_token_ids=torch.ones(REQUESTS, dtype=torch.int64)))
    assert steps == [one.rid for one in mine]
