"""The transformers engine against plain PEFT and transformers, one variant and one prompt at a time."""

import json

import numpy as np
import pytest
import torch

from es_ray.config import Config
from es_ray.engines.base import BASE, CENTRE, Row, Variant
from es_ray.engines.hf.engine import TransformersEngine
from es_ray.errors import EvaluationError, UserError
from es_ray.experiment import Experiment
from tests import plain_peft
from tests.engines.hf_setting import GENERATION, INDICES, NEW_TOKENS, prompt_of, reference, rows, setting
from tests.small_models import STOP_IDS, edit_json, small_model

CASES = [
    ("qwen2", {"rank": 1}),
    ("qwen2", {"rank": 8, "alpha": 16.0, "layers": "1"}),
    ("qwen2", {"rank": 2, "target_modules": ["down_proj", "k_proj"]}),
    ("qwen2", {"rank": 4, "target_modules": ["o_proj"]}),
    ("llama", {"rank": 2}),
    ("llama", {"rank": 16, "alpha": 32.0}),
    ("llama", {"rank": 5, "layers": "0", "target_modules": ["gate_proj", "o_proj"]}),
    ("qwen3", {"rank": 1, "target_modules": ["q_proj", "v_proj"]}),
    ("qwen3", {"rank": 8}),
    ("qwen3", {"rank": 3, "target_modules": ["k_proj", "gate_proj", "up_proj"]}),
    ("mistral", {"rank": 2, "layers": "0-1"}),
    ("mistral", {"rank": 1, "alpha": 8.0, "target_modules": ["up_proj"]}),
    ("mistral-window", {"rank": 2}),
    ("gemma2", {"rank": 1, "alpha": 32.0}),
    ("gpt_neox", {"rank": 2, "target_modules": ["query_key_value", "dense_h_to_4h", "dense_4h_to_h"]}),
    ("phi3", {"rank": 1, "target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    ("opt", {"rank": 2, "target_modules": ["q_proj", "out_proj", "fc1", "fc2"]}),
    ("gpt_bigcode", {"rank": 2, "target_modules": ["c_attn", "c_proj"]}),
]
IDS = [f"{architecture}-{'-'.join(map(str, lora.values()))}" for architecture, lora in CASES]


@pytest.mark.parametrize(("architecture", "lora"), CASES, ids=IDS)
def test_completions_equal_plain_pefts_member_by_member(architecture, lora, tmp_path):
    s = setting(small_model(tmp_path / "model", architecture), lora)
    asked = rows()
    answers = s.generate(asked)
    assert len(answers) == len(asked)
    by_index = {c: reference(s, Variant(c, GENERATION), tmp_path / f"adapter{c}") for c in INDICES}
    for row, ours in zip(asked, answers, strict=True):
        wanted = plain_peft.greedy(by_index[row.variant.member], list(row.prompt_ids), STOP_IDS, NEW_TOKENS)
        assert ours.token_ids == wanted, f"index {row.variant.member}, prompt of {len(row.prompt_ids)}"
        assert ours.finish_reason == ("stop" if wanted[-1] in STOP_IDS else "length")
    # else the test would say nothing of members, of rows that end early, or of rows that do not
    assert {ours.finish_reason for ours in answers} == {"stop", "length"}
    prompt = rows()[0].prompt_ids
    same = s.generate([Row(Variant(c, GENERATION), prompt) for c in range(6)])
    assert len({tuple(answer.token_ids) for answer in same}) > 1
    s.engine.close()


@pytest.mark.parametrize("heads", [4, 1])
@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_members_one_after_the_other_equal_plain_pefts(architecture, heads, tmp_path):
    """As shards are: each variant's prompts together, more of them for the centre."""
    folder = small_model(tmp_path / "model", architecture, num_key_value_heads=heads)
    s = setting(folder, {"rank": 2})
    prompts = [row.prompt_ids for row in rows(indices=(0,))]
    for shard in ({0: 2, 1: 2, 4: 2}, {1: 2, 4: 2, CENTRE: 4}, {0: 1, 4: 3, CENTRE: 5}):
        asked = [
            Row(Variant(c, GENERATION), prompt) for c, count in shard.items() for prompt in prompts[:count]
        ]
        answers = s.generate(asked)
        for index in shard:
            model = reference(s, Variant(index, GENERATION), tmp_path / f"adapter{index}")
            for row, ours in zip(asked, answers, strict=True):
                if row.variant.member == index:
                    assert ours.token_ids == plain_peft.greedy(
                        model, list(row.prompt_ids), STOP_IDS, NEW_TOKENS
                    )


@pytest.mark.parametrize("architecture", ["qwen2", "mistral-window"])
def test_long_answers_equal_plain_pefts(architecture, tmp_path):
    """Far beyond any first guess of a cache's size, with rows that end on the way."""
    folder, stop = small_model(tmp_path / "model", architecture), STOP_IDS[:3]
    edit_json(folder / "generation_config.json", eos_token_id=stop)
    s = setting(folder, {"rank": 1}, task__max_new_tokens=150)
    asked = rows(lengths=(1, 30), indices=(0, 2, CENTRE))
    answers = s.generate(asked)
    by_index = {c: reference(s, Variant(c, GENERATION), tmp_path / f"adapter{c}") for c in (0, 2, CENTRE)}
    for row, ours in zip(asked, answers, strict=True):
        wanted = plain_peft.greedy(by_index[row.variant.member], list(row.prompt_ids), stop, 150)
        assert ours.token_ids == wanted
    assert max(len(answer.token_ids) for answer in answers) == 150


def beginning_alike(same: int) -> list[Row]:
    """Rows of four variants whose prompts begin with the same tokens, in mixed order."""
    rng = np.random.default_rng(5)  # of 3, two logits of the base model tie in every bit
    beginning = prompt_of(rng, same)
    rests = [prompt_of(rng, length) for length in (1, 3, 9, 9, 4, 1, 6, 2)]
    asked = [Row(Variant(c, GENERATION), beginning + rest) for c in (0, 3, CENTRE, BASE) for rest in rests]
    return [asked[number] for number in rng.permutation(len(asked))]


@pytest.mark.parametrize(
    ("architecture", "shares"),
    [
        ("qwen2", True),
        ("llama", True),
        ("qwen3", True),
        ("opt", True),
        ("gpt_bigcode", True),
        ("gpt_neox", True),
        ("mistral-window", False),  # its layers forget
        ("gemma2", False),
    ],
)
def test_what_all_prompts_begin_with_is_read_once_for_each_variant(architecture, shares, tmp_path):
    modules = next(lora for name, lora in CASES if name == architecture)
    s = setting(small_model(tmp_path / "model", architecture), modules | {"rank": 2})
    asked = beginning_alike(same=17)
    read: list[tuple[int, ...]] = []
    hook = s.engine._model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    answers = s.generate(asked)
    hook.remove()
    assert read[:2] == ([(4, 17), (32, 9)] if shares else [(32, 26), (32, 1)])
    given = [[5, 6, 7]] * len(asked)
    found = s.engine.log_probs([s.theta], s.perturbation, asked, given)
    for variant in dict.fromkeys(row.variant for row in asked):
        model = reference(s, variant, tmp_path / f"adapter{variant.member}")
        for row, ours, log_probs in zip(asked, answers, found, strict=True):
            if row.variant == variant:
                prompt = list(row.prompt_ids)
                assert ours.token_ids == plain_peft.greedy(model, prompt, STOP_IDS, NEW_TOKENS)
                logits = plain_peft.logits(model, [*prompt, 5, 6, 7])[len(prompt) - 1 : -1]
                wanted = logits.log_softmax(dim=-1)[range(3), [5, 6, 7]]
                assert np.allclose(log_probs, wanted, atol=1e-4, rtol=0)


def test_a_beginning_that_saves_little_is_not_read_apart(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    passes: list[int] = []
    s.engine._model.register_forward_pre_hook(lambda *_: passes.append(1))
    each_once = [row for row in beginning_alike(same=17) if len(row.prompt_ids) == 20]
    assert len(each_once) == 4  # one of each variant
    for asked in (beginning_alike(same=1), each_once):
        passes.clear()
        longest = max(len(answer.token_ids) for answer in s.generate(asked))
        assert len(passes) == longest


@pytest.mark.parametrize(("architecture", "lora"), CASES[:1] + CASES[3:4] + CASES[6:8], ids=lambda v: str(v))
def test_in_bfloat16_every_token_is_within_rounding_of_plain_pefts_choice(architecture, lora, tmp_path):
    folder = small_model(tmp_path / "model", architecture, dtype=torch.bfloat16)
    s = setting(folder, lora, model__dtype="bfloat16")
    assert s.engine.info.dtype == "bfloat16"
    asked = rows()
    answers = s.generate(asked)
    same = 0
    for index in INDICES:
        model = reference(s, Variant(index, GENERATION), tmp_path / f"adapter{index}")
        for row, ours in zip(asked, answers, strict=True):
            if row.variant.member != index:
                continue
            prompt = list(row.prompt_ids)
            same += ours.token_ids == plain_peft.greedy(model, prompt, STOP_IDS, NEW_TOKENS)
            logits = plain_peft.logits(model, prompt + ours.token_ids)[len(prompt) - 1 : -1]
            chosen = logits.gather(1, torch.tensor(ours.token_ids)[:, None])[:, 0]
            behind = (logits.max(dim=1).values - chosen).max().item()
            assert behind <= 4 * 2**-8 * logits.abs().max().item(), f"index {index}"
    assert same >= 0.7 * len(asked)
    s.engine.close()


def test_a_row_gets_the_same_answer_alone_and_in_any_batch(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    asked = rows()
    together = s.generate(asked)
    backwards = s.generate(asked[::-1])
    assert backwards == together[::-1]
    for row, answer in zip(asked[:8], together[:8], strict=True):
        assert s.generate([row]) == [answer]


def test_calls_leave_nothing_behind_in_the_engine(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 2})
    base = [row for row in rows() if row.variant.member == BASE]
    before = s.generate(base)
    s.generate(rows())
    again = [Row(Variant(BASE), row.prompt_ids) for row in base]
    assert s.engine.generate([s.theta + 1], s.perturbation, again) == before


def test_generation_settings_of_the_model_are_not_applied(tmp_path):
    """Qwen2.5 ships a repetition penalty and sampling; training decodes by pure argmax."""
    folder = small_model(tmp_path / "model")
    plain = setting(folder, {"rank": 1})
    wanted = plain.generate(rows())
    edit_json(
        folder / "generation_config.json",
        repetition_penalty=5.0,
        do_sample=True,
        temperature=3.0,
        top_k=50,
        top_p=0.5,
        no_repeat_ngram_size=1,
        min_new_tokens=5,
    )
    s = setting(folder, {"rank": 1})
    assert s.generate(rows()) == wanted


@pytest.mark.parametrize("stop", [STOP_IDS, [5], 2])
def test_only_the_stop_ids_of_generation_config_end_an_answer(tmp_path, stop):
    folder = small_model(tmp_path / "model")
    edit_json(folder / "generation_config.json", eos_token_id=stop)
    s = setting(folder, {"rank": 1})
    stops = stop if isinstance(stop, list) else [stop]
    for answer in s.generate(rows()):
        assert not set(answer.token_ids[:-1]) & set(stops)
        assert (answer.token_ids[-1] in stops) == (answer.finish_reason == "stop")
        assert answer.finish_reason == "stop" or len(answer.token_ids) == NEW_TOKENS


def test_without_generation_config_the_models_own_stop_id_counts(tmp_path):
    folder = small_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", eos_token_id=STOP_IDS)
    s = setting(folder, {"rank": 1})
    answers = s.generate(rows())
    assert any(answer.finish_reason == "stop" for answer in answers)
    for answer in answers:
        assert (answer.token_ids[-1] in STOP_IDS) == (answer.finish_reason == "stop")


def plain_norm(weight: torch.Tensor) -> float:
    return float(np.linalg.norm(weight.detach().double().numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_reports_mean_weights_size_and_dtype(tmp_path, dtype):
    folder = small_model(tmp_path / "model", dtype=dtype)
    s = setting(folder, {"rank": 1}, model__dtype=str(dtype).removeprefix("torch."))
    model = plain_peft.base_model(folder)
    wanted = [
        model.get_submodule(m.name).weight.double().abs().mean().item() for m in s.experiment.layout.modules
    ]
    assert s.engine.info.mean_abs == pytest.approx(wanted, rel=1e-9)
    norms = [plain_norm(model.get_submodule(m.name).weight) for m in s.experiment.layout.modules]
    assert s.engine.info.frobenius == pytest.approx(norms, rel=1e-9)
    assert s.engine.info.parameters == model.num_parameters()
    assert s.engine.info.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, "float32"),
        ({"architecture": "x86_64", "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "amx_bf16": True}, "bfloat16"),
        ({"architecture": "aarch64"}, "bfloat16"),
    ],
)
def test_by_default_a_cpu_computes_in_the_files_dtype_if_it_has_products_in_it(
    capabilities, dtype, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    folder = small_model(tmp_path / "model", dtype=torch.bfloat16)
    s = setting(folder, {"rank": 1})
    assert s.engine.info.dtype == dtype
    asked = rows()[:3]
    assert s.generate(asked) == setting(folder, {"rank": 1}, model__dtype=dtype).generate(asked)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_dtype_can_be_chosen(tmp_path, dtype):
    s = setting(small_model(tmp_path / "model"), {"rank": 1}, model__dtype=dtype)
    assert s.engine.info.dtype == dtype
    assert len(s.generate(rows()[:3])) == 3


def test_deterministic_algorithms_give_the_same_answers(tmp_path):
    folder = small_model(tmp_path / "model")
    plain = setting(folder, {"rank": 1})
    wanted = plain.generate(rows())
    s = setting(folder, {"rank": 1}, engine__deterministic=True)
    assert s.generate(rows()) == wanted
    s.engine.close()
    assert not torch.are_deterministic_algorithms_enabled()


def test_logits_that_are_not_finite_are_an_error_with_the_members_name(tmp_path):
    s = setting(small_model(tmp_path / "model"), {"rank": 1})
    wild = s.experiment.config.replace(evolution__noise={"kind": "constant", "std": 1e25})
    s = s._replace(perturbation=Experiment(wild).strategy(s.engine.info.mean_abs).perturbation)
    centre, base, member = (Row(Variant(index, GENERATION), (100, 101, 102)) for index in (CENTRE, BASE, 3))
    fine = s.generate([centre, base])
    assert len(fine) == 2
    with pytest.raises(EvaluationError, match=f"^member 3 of generation {GENERATION}: .*not finite"):
        s.generate([centre, base, member])
    # and the engine still works
    assert s.generate([centre]) == fine[:1]


@pytest.mark.parametrize(("index", "name"), [(0, "member 0"), (CENTRE, "centre"), (BASE, "base model")])
def test_a_model_with_nan_weights_is_an_error_with_the_variants_name(tmp_path, index, name):
    from safetensors.torch import load_file, save_file

    folder = small_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    s = setting(folder, {"rank": 1})
    with pytest.raises(EvaluationError, match=f"{name} of generation {GENERATION}"):
        s.generate([Row(Variant(index, GENERATION), (100, 101))])


def test_closing_gives_the_process_its_threads_back(tmp_path):
    before = torch.get_num_threads()
    s = setting(small_model(tmp_path / "model"), {"rank": 1}, engine__threads=before + 1)
    assert torch.get_num_threads() == before + 1
    s.engine.close()
    assert torch.get_num_threads() == before


def test_a_model_that_cannot_be_loaded_changes_no_setting(tmp_path):
    folder = small_model(tmp_path / "model")
    before = torch.get_num_threads()
    experiment = setting(folder, {"rank": 1}).experiment
    (folder / "model.safetensors").write_bytes(b"torn")
    config = experiment.config.replace(engine__threads=before + 1, engine__deterministic=True)
    torch.set_num_threads(before)
    with pytest.raises(UserError, match="model.safetensors cannot be read"):
        TransformersEngine(Experiment(config))
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_prompts_go_through_the_chat_template_as_one_user_message(tmp_path):
    folder = small_model(tmp_path / "model")
    data = tmp_path / "data.jsonl"
    questions = ["What is 2 + 2?", "Größe: 日本 <|im_end|>?"]
    data.write_text("".join(json.dumps({"prompt": q, "target": "x"}) + "\n" for q in questions))
    config = Config().replace(model__path=str(folder), task__train=str(data), task__test=str(data))
    tokenizer = plain_peft.tokenizer_of(folder)
    wanted = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)
        for q in questions
    ]
    wanted = [list(ids if isinstance(ids, list) else ids["input_ids"]) for ids in wanted]
    assert [list(ids) for ids in Experiment(config).prompt_ids["train"]] == wanted
