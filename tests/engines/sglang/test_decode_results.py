"""Against a plain loop over all requests, as SGLang has it; with SGLang's own in tests/gpu."""

import logging
import random
import sys
from array import array
from types import ModuleType, SimpleNamespace

import pytest
import torch

from es_ray.engines.sglang import decode_results
from es_ray.engines.sglang.decode_results import digest, ends_of, shortened

VOCABULARY = 50
LOG = "sglang.srt.managers.scheduler_components.metrics_reporter"


def request(**values) -> SimpleNamespace:
    sampling = {"max_new_tokens": 9, "stop_token_ids": {7, 8}, "stop_strs": [], "stop_regex_strs": []}
    names = [name for name in values if name in (*sampling, "ignore_eos")]
    plain = dict.fromkeys(
        (
            "stream", "return_logprob", "return_sampling_mask", "return_hidden_states", "require_reasoning",
            "return_routed_experts", "return_indexer_topk", "is_retracted",
        ),
        False,
    )  # fmt: skip
    none = dict.fromkeys(
        ("grammar", "tokenizer", "multimodal_inputs", "mamba_ping_pong_track_buffer", "to_finish")
    )
    own = {"output_ids": array("q"), "finished_reason": None, "eos_token_ids": {3}, **plain, **none}
    own["sampling_params"] = SimpleNamespace(
        **{"ignore_eos": False, **sampling, **{name: values.pop(name) for name in names}}
    )
    return SimpleNamespace(**(own | values))


def loop(processor, batch, result) -> None:
    """What becomes of each request, one after the other."""
    tokens = result.next_token_ids
    tokens = tokens.tolist() if torch.is_tensor(tokens) else tokens
    processor.metrics_reporter.num_generated_tokens += len(batch.reqs)
    processor.asked.append(len(batch.reqs))
    for one, token in zip(batch.reqs, tokens, strict=True):
        if one.finished_reason or one.is_retracted:
            continue
        one.output_ids.append(token)
        sampling = one.sampling_params
        ends = () if sampling.ignore_eos else {*sampling.stop_token_ids, *one.eos_token_ids}
        if one.to_finish:
            one.finished_reason = one.to_finish
        elif len(one.output_ids) >= sampling.max_new_tokens:
            one.finished_reason = "length"
        elif not 0 <= token < VOCABULARY:
            one.finished_reason = "not a token"
        elif token in ends:
            one.finished_reason = f"stop {token}"
        if one.finished_reason:
            processor.sent.append((one, list(one.output_ids), one.finished_reason))
        elif one.stream:
            processor.sent.append((one, list(one.output_ids), None))


def step(requests, tokens) -> tuple[SimpleNamespace, SimpleNamespace]:
    batch = SimpleNamespace(
        reqs=requests, return_logprob=False, has_grammar=False, return_hidden_states=False,
        spec_algorithm=SimpleNamespace(is_none=lambda: True),
        model_config=SimpleNamespace(vocab_size=VOCABULARY),
    )  # fmt: skip
    result = SimpleNamespace(
        next_token_ids=torch.tensor(tokens), copy_done=None, logits_output=None,
        routed_experts_output=None, indexer_topk_output=None,
    )  # fmt: skip
    return batch, result


def processor() -> SimpleNamespace:
    metrics = SimpleNamespace(num_generated_tokens=0, forward_ct_decode=0, decode_log_interval=3)
    return SimpleNamespace(metrics_reporter=metrics, sent=[], asked=[])


@pytest.fixture(autouse=True)
def context(monkeypatch) -> SimpleNamespace:
    settings = SimpleNamespace(
        enable_metrics=False, enable_trace=False, disaggregation_decode_enable_offload_kvcache=False
    )
    module = ModuleType("sglang.srt.runtime_context")
    module.get_disagg = module.get_observability = lambda: settings
    for name in ("sglang", "sglang.srt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return settings


def requests(seed: int) -> list[SimpleNamespace]:
    draw = random.Random(seed)
    found = [
        request(
            max_new_tokens=draw.choice([1, 2, 5, 30]), ignore_eos=draw.random() < 0.3,
            eos_token_ids=draw.choice([set(), {3}, {3, 4}]), stream=draw.random() < 0.1,
        )
        for _ in range(40)
    ]  # fmt: skip
    found[3].to_finish = "aborted"
    found[5].is_retracted = True
    return found


@pytest.mark.parametrize("seed", range(8))
def test_requests_become_what_they_become_one_by_one(seed):
    states = []
    for method in (loop, shortened(loop)):
        draw, mine, ours = random.Random(seed), requests(seed), processor()
        for number in range(32):
            tokens = [
                draw.choice([3, 4, 7, 8]) if draw.random() < 0.05 else draw.randrange(VOCABULARY)
                for _ in mine
            ]
            if seed % 2 and number == 4:
                tokens[11] = VOCABULARY + 1
            method(ours, *step(mine, tokens))
            mine[5].is_retracted = number < 6
        ended = [(mine.index(one), tokens, reason) for one, tokens, reason in ours.sent]
        last = [(list(one.output_ids), one.finished_reason) for one in mine]
        states.append((ended, last, ours.metrics_reporter.num_generated_tokens))
    assert states[0] == states[1]


def test_the_method_is_left_with_the_requests_that_end():
    ours, mine = processor(), [request() for _ in range(5)]
    shortened(loop)(ours, *step(mine, [1, 7, 2, 3, 4]))
    assert ours.asked == [2]
    assert [one.finished_reason for one in mine] == [None, "stop 7", None, "stop 3", None]
    shortened(loop)(ours, *step(mine, [1, 1, 1, 1, VOCABULARY]))
    assert ours.asked == [2, 5]  # who did what with such a token is SGLang's to say


@pytest.mark.parametrize(
    "asks",
    [
        "return_logprob",
        "has_grammar",
        "return_hidden_states",
        "speculative",
        "enable_metrics",
        "enable_trace",
        "offload",
    ],
)
def test_a_step_of_which_more_is_asked_is_left_alone(asks, context):
    ours, mine = processor(), [request() for _ in range(3)]
    batch, result = step(mine, [1, 2, 4])
    if asks == "speculative":
        batch.spec_algorithm.is_none = lambda: False
    elif asks in ("enable_metrics", "enable_trace"):
        setattr(context, asks, True)
    elif asks == "offload":
        context.disaggregation_decode_enable_offload_kvcache = True
    else:
        setattr(batch, asks, True)
    shortened(loop)(ours, batch, result)
    assert ours.asked == [3]


def test_which_tokens_end_a_request_and_which_requests_are_more():
    assert ends_of(request()) == {3, 7, 8}
    assert ends_of(request(stop_token_ids=None, eos_token_ids=None)) == set()
    assert ends_of(request(ignore_eos=True)) == ()
    for more in ("stream", "return_logprob", "return_hidden_states", "require_reasoning"):
        assert ends_of(request(**{more: True})) is None
    for more in ("grammar", "tokenizer", "multimodal_inputs", "mamba_ping_pong_track_buffer"):
        assert ends_of(request(**{more: object()})) is None
    assert ends_of(request(stop_strs=["x"])) is None


def test_a_step_that_sglang_logs_is_left_alone(caplog):
    for level, logged in ((logging.ERROR, 0), (logging.INFO, 1)):
        caplog.set_level(level, LOG)
        ours, mine = processor(), [request() for _ in range(3)]
        for steps in range(6):
            ours.metrics_reporter.forward_ct_decode = steps
            shortened(loop)(ours, *step(mine, [1, 2, 4]))
        assert ours.asked == [0, 0, 3 * logged, 0, 0, 3 * logged]


def test_a_source_that_was_not_read_is_left_alone(monkeypatch, caplog):
    def method(self) -> None:
        """Not SGLang's."""

    classes: dict[str, type] = {}
    modules = {path: ModuleType(path) for path, _ in decode_results.READ}
    for (path, name), methods in decode_results.READ.items():
        classes[name] = type(name, (), dict.fromkeys(methods, method))
        setattr(modules[path], name, classes[name])
        monkeypatch.setitem(sys.modules, path, modules[path])
    assert len(digest()) == 64 and digest() != decode_results.DIGEST
    decode_results.shorten()
    assert "not the one known" in caplog.text
    processors = classes["SchedulerBatchResultProcessor"]
    assert processors.process_batch_result_decode is method
    monkeypatch.setattr(decode_results, "DIGEST", digest())
    decode_results.shorten()
    assert processors.process_batch_result_decode is not method
    del classes["Req"].update_finish_state
    assert digest() == ""
