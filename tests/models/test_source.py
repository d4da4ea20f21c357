"""How a model is asked: through its chat template, or as plain text where it has none."""

from pathlib import Path

import pytest
from jinja2 import Template
from tokenizers import Tokenizer

from es_ray.config import Config, load
from es_ray.errors import UserError
from es_ray.experiment import Experiment
from es_ray.models import ModelSource
from es_ray.paths import data_dir
from tests.short_runs import json_lines
from tests.small_models import edit_json, small_model

USER = {"role": "user", "content": "Why is the sky blue?"}
SYSTEM = {"role": "system", "content": "Be short."}
CHATS = [
    [USER],
    [SYSTEM, USER],
    [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER],
]
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""Its last line is as Qwen3's template has it."""


def source(path, **model) -> ModelSource:
    return ModelSource.of(Config.parse({"model": {"path": str(path)} | model}).model)


def ids(folder: Path, text: str, special: bool) -> list[int]:
    """Token ids, by the tokenizer's file alone."""
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=special).ids


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A base model: without a chat template, and its tokenizer puts BOS before a text."""
    folder = small_model(tmp_path_factory.mktemp("models") / "bare", "llama")
    (folder / "chat_template.jinja").unlink()
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    sequence, bos = {"Sequence": {"id": "A", "type_id": 0}}, "<|endoftext|>"
    edit_json(
        folder / "tokenizer.json",
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, sequence],
            "pair": [sequence, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [0], "tokens": [bos]}},
        },
    )
    return folder


@pytest.fixture(scope="module")
def thinking(tmp_path_factory) -> Path:
    folder = small_model(tmp_path_factory.mktemp("models") / "thinking", "qwen3")
    (folder / "chat_template.jinja").write_text(THINKING)
    return folder


@pytest.mark.parametrize("chat", ["auto", "always"])
@pytest.mark.parametrize("messages", CHATS)
def test_a_chat_goes_through_the_template(messages, chat):
    folder = data_dir() / "tiny_chat"
    text = Template((folder / "chat_template.jinja").read_text()).render(
        messages=messages, add_generation_prompt=True
    )
    bundled = source("bundled", chat=chat)
    assert bundled.chat_ids(messages) == ids(folder, text, special=False)
    assert bundled.note is None


@pytest.mark.parametrize("messages", CHATS)
def test_a_model_without_a_template_is_given_plain_text_with_the_tokenizers_special_tokens(bare, messages):
    text = "\n\n".join(turn["content"] for turn in messages)
    found = source(bare).chat_ids(messages)
    assert found == ids(bare, text, special=True)
    assert found[0] == 0 and found[1:] == ids(bare, text, special=False)
    assert source(bare, chat="never").chat_ids(messages) == found
    assert source("bundled", chat="never").chat_ids(messages) == ids(
        data_dir() / "tiny_chat", text, special=True
    )


def test_only_what_is_not_asked_for_is_noted(bare):
    assert source(bare).note.startswith("bare has no chat template")
    assert source(bare, chat="never").note is None
    assert source("bundled", chat="never").note is None


def test_always_refuses_a_model_without_a_template(bare):
    with pytest.raises(
        UserError, match="^model.chat: always, but the tokenizer of .*bare has no chat template"
    ):
        source(bare, chat="always").chat_ids([USER])


@pytest.mark.parametrize(("given", "empty_thought"), [({}, False), ({"enable_thinking": False}, True)])
def test_the_templates_arguments_reach_it(thinking, given, empty_thought):
    text = f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"
    text += "<think>\n\n</think>\n\n" if empty_thought else ""
    found = source(thinking, chat_template_kwargs=given).chat_ids([USER])
    assert found == ids(thinking, text, special=False)


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"enable_thinkng": False}, "enable_thinkng has no effect: the chat template of .* does not read it"),
        ({"add_generation_prompt": False}, "add_generation_prompt has no effect: es-ray sets it"),
        ({"tokenize": True}, "tokenize has no effect: es-ray sets it"),
    ],
)
def test_arguments_that_a_template_does_not_read_are_refused(thinking, given, about):
    with pytest.raises(UserError, match=f"^model.chat_template_kwargs: {about}"):
        source(thinking, chat_template_kwargs=given).chat_ids([USER])


@pytest.mark.parametrize("chat", ["auto", "never"])
def test_arguments_without_a_template_are_refused(bare, thinking, chat):
    folder = bare if chat == "auto" else thinking
    with pytest.raises(UserError, match="enable_thinking has no effect: .* is given plain text"):
        source(folder, chat=chat, chat_template_kwargs={"enable_thinking": False}).chat_ids([USER])


def test_a_template_that_refuses_a_chat_is_one_line(thinking, tmp_path):
    folder = small_model(tmp_path / "strict")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system\nturns') }}")
    with pytest.raises(UserError) as error:
        source(folder).chat_ids(CHATS[1])
    assert str(error.value).endswith("strict fails: no system turns")


def test_a_run_of_a_model_without_a_template_says_so_and_asks_plain_text(bare, tmp_path, cli):
    data = tmp_path / "data.csv"
    data.write_text("question,answer\r\nWhy?,So.\r\n")
    task = {
        "columns.prompt": "question",
        "columns.target": "answer",
        "max_new_tokens": 8,
        "system_prompt": "Hi.",
    }
    sets = [f"task.{key}={value}" for key, value in (task | {"train": data, "test": data}).items()]
    options = [word for item in [*sets, "evolution.noise.multiplier=1"] for word in ("--set", item)]
    few = ("--population", 2, "--generations", 1, "--output", tmp_path / "run")
    ended = cli("run", "--local", "--model", bare, *few, *options)
    assert ended.code == 0, ended.err
    assert "note: bare has no chat template" in ended.out
    member = json_lines(tmp_path / "run/generations/0000/population.jsonl")[0]
    assert [(e["prompt"], e["target"]) for e in member["examples"]] == [("Why?", "So.")]
    resumed = cli("run", "--resume", "--output", tmp_path / "run", "--generations", 2)
    assert resumed.code == 0, resumed.err
    asked = Experiment(load(file=tmp_path / "run/config.yaml")).prompt_ids["train"]
    assert asked == [tuple(ids(bare, "Hi.\n\nWhy?", special=True))]
