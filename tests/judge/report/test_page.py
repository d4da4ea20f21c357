import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from es_ray.errors import RunError, UserError
from es_ray.judge.report import page
from es_ray.judge.report.page import verdict_rows
from es_ray.runs.run_dir import RunDir
from tests.judge.report.pages import add_generation, change, parsed, report, text, write_metrics
from tests.short_runs import GENERATIONS, POPULATION, json_lines

OLD = Path(__file__).parents[2] / "data/run_0_1_0/run"
LARGEST = 2_000_000


def test_it_says_what_ran_where_what_came_of_it_and_how_to_go_on(finished):
    said = text(finished.path)
    environment = json.loads((finished.path / "environment.json").read_text())
    results = json.loads((finished.path / "test_results.json").read_text())
    for wanted in (
        f"complete: {GENERATIONS} generations", f"population {POPULATION}", environment["host"],
        environment["versions"]["torch"], environment["hardware"]["cpu"],
        f"es-ray run --config {finished.path}/config.yaml --output {finished.path}-again",
        "AutoPeftModelForCausalLM.from_pretrained(", "KL to base (nats per token)", "No worker was lost",
        "seconds for a generation", "reward (mean over prompts)", "12345678901",
    ):  # fmt: skip
        assert wanted in said, wanted
    for who in ("base", "centre", "best"):
        for example in results[who]["examples"]:
            assert " ".join(example["completion"].split()) in said
            assert example["prompt"] in said


def test_the_adapter_that_it_names_is_there_and_the_command_repeats_the_run(finished):
    said = text(finished.path)
    adapter = re.search(r'CausalLM\.from_pretrained\("([^"]+)"', said)[1]
    assert (Path(adapter) / "adapter_model.safetensors").is_file()
    base = re.search(r"AutoTokenizer\.from_pretrained\('([^']+)'", said)[1]
    assert (Path(base) / "tokenizer.json").is_file()


def test_without_the_adapter_it_names_the_command_that_rebuilds_it(copied, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (copied / "generations").glob("*/adapter"):
        shutil.rmtree(folder)
    command = re.search(r"es-ray (member \S+ --generation \d+ --centre --output \S+)", text(copied))[1]
    assert cli(*command.split()).code == 0
    assert re.search(r'CausalLM\.from_pretrained\("([^"]+)"', text(copied))[1] == command.split()[-1]
    assert (tmp_path / command.split()[-1] / "adapter_model.safetensors").is_file()


def test_nothing_on_it_is_fetched_or_executed(finished):
    _, tags = parsed(report(finished.path))
    assert not {"script", "link", "img", "iframe", "object", "a"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name in ("src", "href", "style")]
    policy = next(one["content"] for tag, one in tags if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    ids = [one["id"] for _, one in tags if "id" in one]
    assert len(ids) == len(set(ids)) > 8


def test_what_a_model_answers_is_shown_as_text(copied):
    answers = [
        "<script>alert('1')</script><b>&amp;", "\x1b[31mred\x00", "a\u202eb\u200f\u2066", "\ud800 half", "",
        "x" * 100_000, "line\n" * 2000, "日本 é",
    ]  # fmt: skip

    def edit(results: dict) -> None:
        for example, answer in zip(results["centre"]["examples"], answers, strict=True):
            example["completion"] = answer

    change(copied / "test_results.json", edit)
    page = report(copied)
    said, tags = parsed(page)
    assert "script" not in [tag for tag, _ in tags]
    assert html.escape(answers[0]).replace("&#x27;", "&#39;") in page
    for wanted in (
        answers[0], r"\x1b[31mred\x00", r"a\u202eb\u200f\u2066", r"\ud800 half", "(empty)",
        "(97,000 more characters)", "日本 é",
    ):  # fmt: skip
        assert wanted in said, wanted
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert page.count("x" * 1000) == 3, "3,000 characters of the longest"


def test_names_of_metrics_may_be_anything(copied):
    name = "a <b> & 'c' " + "very " * 40 + "long"
    lines = [
        {**line, f"centre_{name}": 1.5, f"members_{name}": 2.5}
        for line in json_lines(copied / "metrics.jsonl")
    ]
    (copied / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    page = report(copied)
    assert "<b> &" not in page
    assert " ".join(name.split()) in parsed(page)[0]


def test_more_metrics_than_charts_are_named(copied):
    more = {f"centre_m{number}": 1.0 for number in range(20)}
    lines = [line | more for line in json_lines(copied / "metrics.jsonl")]
    (copied / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert "Without a chart: m10, m11," in text(copied)


def test_a_run_that_was_killed_has_a_report(copied):
    (copied / "test_results.json").unlink()
    (copied / "selected.json").unlink()
    shutil.rmtree(copied / "generations" / f"{GENERATIONS - 1:04d}")
    with (copied / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 4, "rew')
    said = text(copied)
    assert f"{GENERATIONS - 1} of {GENERATIONS} generations; no final evaluation yet" in said
    assert "There is no test_results.json" in said
    assert f"the last centre, after generation {GENERATIONS - 2}" in said


def test_a_run_that_the_guard_ended_says_so(copied):
    configured(copied, evolution={"generations": 99})
    assert f"ended by the guard after {GENERATIONS} of 99 generations" in text(copied)


def test_a_run_of_0_1_0_has_a_report(tmp_path):
    run = shutil.copytree(OLD, tmp_path / "run")
    said = text(run)
    assert "Neither KL nor drift was measured" in said
    assert "es-ray 0.1.0" in said
    assert "es-ray member" in said, "adapters of the fixture are pruned"


def test_verdicts_and_rollbacks_are_listed_with_their_generations(copied):
    drop = "correct: 50%, more than 0.15 below the base model's 100%"
    write_metrics(copied, 12, verdicts=lambda g: [drop] if 3 <= g < 6 else ["kl: 1 <b>"] if g == 8 else [])
    lines = json_lines(copied / "metrics.jsonl")
    lines[6]["rollback"], lines[9]["rollback"] = 2, -1
    assert verdict_rows(lines) == [
        ("correct", "3 to 5", drop),
        ("rollback", "6, 9", "back to the centre after generation 2, with half the learning rate"),
        ("kl", "8", "kl: 1 <b>"),
    ]


def test_lost_workers_are_counted(copied):
    write_metrics(copied, 4, redispatched=lambda g: 3 if g == 2 else 0, workers=lambda g: 2 - g % 2)
    said = text(copied)
    assert "evaluated again in 1 generation: 3 in generation 2." in said
    assert "workers 1 to 2" in said


def configured(run: Path, **sections: dict) -> None:
    """Change a run's config.yaml; keys of sections."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, values in sections.items():
        config[name] |= values
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_secrets_by_their_names_are_not_on_the_page(copied):
    secret = "sk-12345"
    options = {
        "api_key": {"value": secret}, "password": f"my {secret}, word", "limit": 7,
        "openai_keys": [secret], "url": f"https://user:{secret}@host/a", "token": f"several\nlines {secret}",
        "headers": {"Authorization": f"Bearer {secret}"}, "AWS_SECRET_ACCESS_KEY": secret,
    }  # fmt: skip
    configured(copied, task={"options": options, "train": f"https://user:{secret}@host/train.jsonl"})
    words = [
        f"task.options.password=my {secret}, word",
        f"task.options={{openai_keys: [{secret}], limit: 7}}",
    ]
    change(copied / "environment.json", lambda one: one["command"].extend(words))
    page = report(copied)
    assert secret not in page
    assert page.count("limit: 7") == 3, "of the settings, of config.yaml, of the command line"
    assert "max_new_tokens: 20" in page
    assert "https://***@host/train.jsonl; in each generation" in page


def test_paths_are_absolute_wherever_it_is_written_from(copied, cli, monkeypatch):
    monkeypatch.chdir(copied)
    assert cli("report", ".").code == 0
    here = text(Path("."))
    assert cli("report", "generations/..", "--output", "b.html").code == 0
    monkeypatch.chdir(copied.parent)
    assert cli("report", copied.name, "--output", "c.html").code == 0
    for said in (
        here, *(parsed(Path(file).read_text(encoding="utf-8"))[0] for file in ("copied/b.html", "c.html"))
    ):  # fmt: skip
        assert f"--config {copied}/config.yaml --output {copied}-again" in said
        assert f'CausalLM.from_pretrained("{copied}/generations/' in said


@pytest.mark.parametrize(
    ("engine", "repeatable"),
    [({}, True), ({"kind": "sglang"}, False), ({"kind": "sglang", "deterministic": True}, True),
     ({"kind": "/gone/own.py:SPEC"}, False)],
)  # fmt: skip
def test_the_same_bytes_are_promised_of_engines_that_repeat_them(copied, engine, repeatable):
    write_metrics(copied, 4, redispatched=lambda g: int(g == 2))
    configured(copied, engine=engine)
    said = text(copied)
    assert ("the bytes are the same" in said) == repeatable
    assert ("No result changes by it" in said) == repeatable
    assert ("as engine.deterministic is off" in said) != repeatable


def test_joined_letters_and_emoji_stay_and_each_text_has_its_own_direction(copied):
    answers = [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200d\u0937",
        "\U0001f469\u200d\U0001f52c",
    ]

    def edit(results: dict) -> None:
        for example, answer in zip(results["centre"]["examples"], answers, strict=False):
            example["completion"] = answer

    change(copied / "test_results.json", edit)
    page = report(copied)
    assert all(answer in page for answer in answers)
    assert "unicode-bidi: plaintext" in re.search(r"\.said \{([^}]*)\}", page)[1]


def test_of_two_members_each_is_shown_once(copied):
    example = {"prompt": "p", "target": "t", "completion": "c", "reward": 1.0, "tokens": 1, "finish": "stop"}
    members = [{"index": at, "reward": float(at), "advantage": 0.0, "examples": [example]} for at in (0, 1)]
    write_metrics(copied, 5)
    add_generation(copied, 4, members)
    said = text(copied)
    assert "Generation 4: 2 of 2 members" in said
    assert "best member: 1, reward" in said and "worst member: 0, reward" in said
    assert "median member" not in said


@pytest.mark.parametrize("generation", [0, GENERATIONS - 1])
def test_a_damaged_state_is_named_and_the_rest_is_shown(copied, generation):
    file = copied / f"generations/{generation:04d}/state.json"
    file.write_text(file.read_text()[:-20])
    said = text(copied)
    assert said.count(f"Left out of this page: {file}: torn or edited") == 1
    assert f"complete: {GENERATIONS} generations" in said


def test_a_damaged_population_is_named_and_the_rest_is_shown(copied):
    file = copied / "generations/0001/population.jsonl"
    file.write_text(file.read_text()[:-20])
    said = text(copied)
    assert f"Left out of this page: {file}: torn or edited" in said
    assert f"of {GENERATIONS - 1} of {GENERATIONS} generations" in said


def test_a_torn_environment_is_no_reason_to_refuse_a_report(copied):
    (copied / "environment.json").write_text("{")
    assert "environment.json is missing or torn" in text(copied)


@pytest.mark.parametrize("name", ["test_results.json", "metrics.jsonl", "selected.json"])
def test_torn_results_are_an_error_with_the_files_name(copied, name):
    file = copied / name
    file.write_text(file.read_text()[: len(file.read_text()) // 2])
    with pytest.raises(RunError, match=name):
        page.write_report(RunDir(copied))


def test_a_run_without_a_generation_has_no_report(tmp_path):
    with pytest.raises(UserError, match="no finished generation"):
        page.write_report(RunDir(tmp_path))


def test_ten_thousand_generations_make_a_small_page(copied):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(10_000, 2))
    write_metrics(
        copied, 10_000,
        reward_mean=lambda g: -90 + noise[g, 0], reward_best=lambda g: -60 + noise[g, 0],
        reward_worst=lambda g: -1e6 if g % 7 == 0 else -120 + noise[g, 1], reward_std=lambda g: 10.0,
        verdicts=lambda g: ["kl: 1"] if g % 2 else [], redispatched=lambda g: g % 3,
    )  # fmt: skip
    shutil.copytree(copied / "generations/0003", copied / "generations/9999")
    page = report(copied)
    assert len(page.encode()) < LARGEST / 4
    assert "10000 generations" in parsed(page)[0] or "10,000 generations" in parsed(page)[0]


def test_large_populations_make_a_small_page_that_says_what_is_left_out(copied):
    examples = [
        {"prompt": f"prompt {at} " + "<&>" * 300, "target": {"a": [at]}, "completion": "&" * 4000,
         "reward": 1.0, "correct": True, "exact": 0.5, "tokens": 9, "finish": "length"}
        for at in range(100)
    ]  # fmt: skip
    population = [
        {"index": at, "reward": float(at), "advantage": 0.0, "examples": examples} for at in range(64)
    ]
    write_metrics(copied, 5)
    add_generation(copied, 4, population)
    one = {"reward": 1.0, "correct": 1.0, "exact": 0.5, "examples": examples}
    results = {"base": one, "centre": one, "best": {**one, "generation": 0, "index": 0}}
    (copied / "test_results.json").write_text(json.dumps(results))
    page = report(copied)
    said, _ = parsed(page)
    assert len(page.encode()) < LARGEST
    assert "Generation 4: 3 of 64 members," in said
    shown, left = map(int, re.search(r"(\d+) of 100 prompts, .*?; (\d+) are left out", said).groups())
    assert shown + left == 100
    assert shown >= 2
    for words in ("best member: 63,", "median member: 31,", "worst member: 0,"):
        assert words in said
