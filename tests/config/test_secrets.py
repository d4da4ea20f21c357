import shlex

import pytest
import yaml

from es_ray.config import load, preset_names
from es_ray.config.secrets import is_secret, masked_text, masked_tree, masked_words

SECRET = "Zq8vR2"
"""In every value that must not be seen."""


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "api_keys",
        "apikey",
        "API-KEY",
        "openai_key",
        "openaiKey",
        "OPENAI_API_KEY",
        "task.options.key",
        "AWS_SECRET_ACCESS_KEY",
        "secret",
        "client-secret",
        "password",
        "db_password",
        "passwd",
        "passphrase",
        "password_2",
        "token",
        "hf_token",
        "HF_TOKEN",
        "--hub-token",
        "auth",
        "Authorization",
        "credentials",
        "credentials.user",
        "cookie",
        "smtp_pass",
        "tokens",
    ],
)
def test_names_of_secrets(name):
    assert is_secret(name)
    assert SECRET not in str(masked_tree({name: f"{SECRET}, word"}))
    assert SECRET not in str(masked_tree({"task": [{name: {"value": [f"my {SECRET}"]}}]}))
    assert SECRET not in " ".join(masked_words(["--set", f"{name}=my {SECRET}, word"]))


@pytest.mark.parametrize(
    "name", ["tokenizer_path", "author", "token_type", "monkey", "pad_token", "keep", "compass", "seed", ""]
)
def test_names_of_others(name):
    assert not is_secret(name)
    assert masked_tree({name: "word"}) == {name: "word"}


@pytest.mark.parametrize("preset", preset_names())
def test_the_configuration_itself_has_no_secret(preset):
    tree = load(preset=preset).model_dump(mode="json")
    assert masked_tree(tree) == tree


@pytest.mark.parametrize(
    "text",
    [
        f"password: 'my {SECRET}, word'",
        f"password: my {SECRET}, word",
        f"api_key: {{value: {SECRET}}}",
        f"api_key: >-\n  several\n  {SECRET}\n",
        f"api_key: |\n  {SECRET}\n",
        f"api_keys:\n- {SECRET}\n- {SECRET}\n",
        f"password: 1234{SECRET}\nlimit: 7",
        f"headers: {{Authorization: Bearer {SECRET}}}",
        f"headers: ['Authorization: Bearer {SECRET}']",
        f"url: https://user:{SECRET}@host/path",
        f"url: https://{SECRET}@host/path",
        f"urls: ['a', 'postgres://me:p@{SECRET}@host/db']",
        f"dsn: host=a password={SECRET} dbname=b",
        f'call: \'{{"api_key": "a {SECRET}"}}\'',
        f"link: https://bucket/file?X-Amz-Signature={SECRET}&a=1",
    ],
)
def test_secrets_of_any_form_are_masked(text):
    """In a tree, and after `--set task.options=`, where the same is typed."""
    tree = yaml.safe_load(text)
    assert SECRET in str(tree)
    masked = masked_tree({"task": {"options": tree}})
    assert SECRET not in yaml.safe_dump(masked)
    assert list(masked["task"]["options"]) == list(tree)
    flow = yaml.safe_dump(tree, default_flow_style=True, width=1000).strip()
    (word,) = masked_words([f"task.options={flow}"])
    assert SECRET not in word
    assert yaml.safe_load(word.removeprefix("task.options=")) == masked["task"]["options"]


def test_a_number_may_be_a_password_but_a_number_of_tokens_is_none():
    assert masked_tree({"password": 1234, "pin": {"token": 5.0}}) == {
        "password": "***",
        "pin": {"token": "***"},
    }
    same = {"max_new_tokens": 64, "api_key": None, "token": False, "tokens": [], "text": "a: b, c=d"}
    assert masked_tree(same) == same
    assert masked_words(["--set", "task.max_new_tokens=64"]) == ["--set", "task.max_new_tokens=64"]


def test_words_of_a_command_line():
    typed = shlex.split(
        f"train.py --api-key {SECRET} --debug --set=task.options.password='a {SECRET}, b' HF_TOKEN={SECRET} "
        f"--config=s3://user:{SECRET}@host/c.yaml --token --seed 7 --output runs/a=b "
        f"--set 'task.options={{limit: 7, api_key: a {SECRET}}}' https://host?token={SECRET}"
    )
    assert masked_words(typed) == [
        "train.py", "--api-key", "***", "--debug", "--set=task.options.password=***", "HF_TOKEN=***",
        "--config=s3://***@host/c.yaml", "--token", "--seed", "7", "--output", "runs/a=b",
        "--set", "task.options={limit: 7, api_key: '***'}", "https://host?token=***",
    ]  # fmt: skip


def test_an_ordinary_command_line_stays_as_it_is():
    typed = shlex.split(
        "es-ray run --preset tiny-chat --set 'evolution.noise={kind: relative, relative: 0.5}' "
        "--set task.max_new_tokens=64 --output s3://bucket/a@b --train hf:openai/gsm8k:train"
    )
    assert masked_words(typed) == typed


def test_what_is_passed_in_is_not_changed():
    tree = {"options": {"api_key": SECRET, "urls": [f"https://{SECRET}@host"]}}
    before = yaml.safe_dump(tree)
    masked_tree(tree)
    assert yaml.safe_dump(tree) == before


def test_text_around_a_secret_stays():
    assert masked_text(f"see git+https://{SECRET}@host/a.git#b, Bearer {SECRET * 3} and me@example.org") == (
        "see git+https://***@host/a.git#b, Bearer *** and me@example.org"
    )
    assert masked_text("the bearer of the ring: sing") == "the bearer of the ring: sing"
