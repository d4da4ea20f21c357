"""The card of an export: what it says, and that nothing in it is read as Markdown or names a folder."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

from es_ray.config import load
from es_ray.exporting.card import base_licence
from es_ray.exporting.settings import as_lines, changed_settings, repeat_command, without_folders
from es_ray.paths import data_dir
from tests.short_runs import json_lines
from tests.small_models import edit_json

HOSTILE = "```\n# A heading | a cell <script>alert(1)</script>\x1b[31m ````"


def exported(cli, run: Path, output: Path, *options: object) -> tuple[dict, str]:
    """The card's front matter and the text below it."""
    ended = cli("export", run, "--output", output, *options)
    assert ended.code == 0, ended.err
    _, matter, text = (output / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def table(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the table whose head begins with these cells, by their first cell."""
    tail = text[text.index(first) :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in tail]
    return {row[0].strip(): row[1:] for row in rows}


def test_its_front_matter_and_head(finished, tmp_path, cli):
    matter, text = exported(cli, finished.path, tmp_path / "a", "--last")
    assert matter == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["evolution-strategies", "es-ray", "lora"],
        "license": "apache-2.0",
    }
    assert text.startswith("\n# tiny_chat, evolved for conciseness\n")
    assert "It is the centre after generation 3" in text
    assert 'from_pretrained("PATH_TO/tiny_chat"' in text and "the base model's folder" in text
    named, text = exported(cli, finished.path, tmp_path / "b", "--last", "--base", "owner/tiny")
    assert 'from_pretrained("owner/tiny"' in text and "PATH_TO" not in text
    assert (named["base_model"], named["base_model_relation"]) == ("owner/tiny", "adapter")


def test_its_figures_are_the_runs_with_intervals_over_prompts(finished, tmp_path, cli):
    _, text = exported(cli, finished.path, tmp_path / "a", "--best")
    results = json.loads((finished.path / "test_results.json").read_text())
    base, best = results["base"], results["best"]
    row = table(text, "| | base model | this")["reward"]
    assert [float(cell) for cell in row[:2]] == pytest.approx([base["reward"], best["reward"]], rel=1e-3)
    changes = [b["reward"] - a["reward"] for a, b in zip(base["examples"], best["examples"], strict=True)]
    mean, low, high = map(float, re.findall(r"[-+]?[\d.]+", row[2]))
    assert mean == pytest.approx(np.mean(changes), rel=1e-3)
    rng = np.random.default_rng(99)
    draws = rng.choice(changes, (20_000, len(changes))).mean(axis=1)
    spread = np.ptp(changes)
    assert [low, high] == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02 * spread + 1e-9)
    for example, answer in zip(base["examples"][:3], best["examples"][:3], strict=True):
        assert f"```text\n{example['prompt']}\n```" in text
        assert f"```text\n{answer['completion']}\n```" in text


def test_results_of_an_earlier_end_are_not_those_of_the_last_centre(copied, tmp_path, cli):
    results = json.loads((copied / "test_results.json").read_text())
    assert results["centre"]["generation"] == 3
    edit_json(copied / "test_results.json", centre=results["centre"] | {"generation": 1})
    _, text = exported(cli, copied, tmp_path / "a", "--last")
    assert "Not recorded: this adapter was not evaluated in the run." in text and "## Samples" not in text
    _, text = exported(cli, copied, tmp_path / "b", "--generation", 1)
    assert "## Samples" in text
    del results["centre"]["generation"]  # as earlier versions wrote it
    edit_json(copied / "test_results.json", centre=results["centre"])
    _, text = exported(cli, copied, tmp_path / "c", "--last")
    assert "## Samples" in text


def test_another_generations_figures_are_those_of_metrics_jsonl(finished, tmp_path, cli):
    _, text = exported(cli, finished.path, tmp_path / "a", "--generation", 1)
    line = json_lines(finished.path / "metrics.jsonl")[2]  # which describes the centre after generation 1
    row = table(text, "| | base model | this")["reward"]
    assert float(row[1]) == pytest.approx(line["test_reward"], rel=1e-3)
    assert "Verdicts of the guard (a drop of at most 0.15): none." in text
    assert "## Samples" not in text


def test_nothing_in_it_names_a_folder_of_the_machine(finished, tmp_path, cli):
    for number, options in enumerate(([], ["--merged"], ["--best"], ["--generation", 0, "--index", 1])):
        _, text = exported(cli, finished.path, tmp_path / str(number), *options)
        for folder in (finished.path, data_dir(), tmp_path, Path.home()):
            assert str(folder) not in text
        assert not re.search(r"(?<![\w./:])/\w+/\w+", text.replace("```", ""))


def test_answers_are_text_whatever_they_contain(copied, tmp_path, cli):
    results = json.loads((copied / "test_results.json").read_text())
    for name in ("base", "centre", "best"):
        results[name]["examples"][0]["completion"] = HOSTILE
    edit_json(copied / "test_results.json", **results)
    _, text = exported(cli, copied, tmp_path / "a", "--last")
    tokens = MarkdownIt().parse(text)
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert blocks.count(HOSTILE.replace("\x1b", "\\x1b") + "\n") == 2
    assert not [token for token in tokens if token.type == "html_block"]
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == ["Figures", "Samples", "Loading", "How it was made"]


@pytest.mark.parametrize(
    "sets",
    [
        ["evolution.noise.std=0.00001", "task.max_new_tokens=20", "lora.layers=0-1"],
        ["evolution.optimizer=adam", "evolution.beta1=0.8", "evolution.learning_rate_schedule={kind: linear, "
         "to: 0.1, over: 5}", "lora.form=b", "task.options={limit: 3}", "task.batch=2"],
        ["model.path=owner/name", "model.revision=abc", "task.train=hf:owner/data:train",
         "guard.metric=exact",
         "task.system_prompt='Be brief: \"yes\" | no'", "evolution.noise.relative=0.1", "evolution.seed=7"],
    ],
)  # fmt: skip
def test_its_command_gives_the_same_configuration(sets):
    config = load(sets=sets)
    line = as_lines(repeat_command(config, config.model.path)).replace("\\\n", " ")
    words = shlex.split(line)
    assert words[:2] == ["es-ray", "run"]
    flags = {"--model": "model.path", "--train": "task.train", "--seed": "evolution.seed"}
    given = list(zip(words[2::2], words[3::2], strict=True))
    again = load(
        sets=[value for option, value in given if option == "--set"],
        flags={flags[option]: value for option, value in given if option != "--set"},
    )
    assert again == config


def test_its_command_runs_as_it_stands(finished, tmp_path, cli):
    _, text = exported(cli, finished.path, tmp_path / "a", "--last")
    words = shlex.split(re.findall(r"```sh\n(es-ray run.*?)```", text, re.DOTALL)[0].replace("\\\n", " "))
    printed = cli(*words[1:], "--dry-run")
    assert printed.code == 0, printed.err
    wanted, again = yaml.safe_load((finished.path / "config.yaml").read_text()), yaml.safe_load(printed.out)
    for section in wanted.keys() - {"cluster", "output"}:
        assert again[section] == wanted[section]


def test_folders_are_left_out_of_paths_and_of_nothing_else():
    assert without_folders("/home/me/my data/train.jsonl") == "train.jsonl"
    assert without_folders("~/x/reward.py:f") == "reward.py:f"
    kept = ("hf:owner/data:train", "owner/name", "https://host/a/b", "a / b", "s3://bucket/a", 3, None)
    assert [without_folders(value) for value in kept] == list(kept)


def test_only_paths_lose_their_folders():
    config = load(
        sets=[
            "task.system_prompt='/no_think Answer yes/no.'",
            "task.name=/home/me/reward.py:f",
            "task.train='/home/me/my data/train.jsonl'",
            "task.options={file: /home/me/words.txt, pattern: '^/usr/.*/bin$', more: [/home/me/a, '/b c/d'], "
            "prompt: '/no_think Answer yes/no.'}",
        ]
    )
    changed = changed_settings(config)
    assert changed["task.system_prompt"] == "/no_think Answer yes/no."
    assert (changed["task.name"], changed["task.train"]) == ("reward.py:f", "train.jsonl")
    assert {key: value for key, value in changed.items() if key.startswith("task.options.")} == {
        "task.options.file": "words.txt",
        "task.options.pattern": "^/usr/.*/bin$",
        "task.options.more": ["a", "/b c/d"],
        "task.options.prompt": "/no_think Answer yes/no.",
    }


def test_secrets_are_in_neither_table_nor_command(copied, tmp_path, cli):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["task"]["options"] = {"api_key": "sk-123", "judge": {"token": "sk-123", "model": "it"}}
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    changed = changed_settings(load(file=copied / "config.yaml"))
    assert changed["task.options.api_key"] == changed["task.options.judge.token"] == "***"
    assert changed["task.options.judge.model"] == "it"
    words = repeat_command(load(file=copied / "config.yaml"), "it")
    assert "sk-123" not in " ".join(words) and "task.options.api_key='***'" in words


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("---\nlicense: mit\n---\n# X", {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: own\ntags: [a]\n---\n",
            {"license": "other", "license_name": "own"},
        ),
        ("# no front matter", {}),
        ("---\n: [\n---\n", {}),
        ("---\n- a\n---\n", {}),
    ],
)
def test_the_licence_is_the_base_models_own(tmp_path, card, wanted):
    (tmp_path / "README.md").write_text(card)
    assert base_licence(tmp_path) == wanted
