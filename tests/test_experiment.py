"""A user's task and update rule: anything else is refused in one line, before anything is written."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from es_ray.config import load
from es_ray.errors import RunError, UserError
from es_ray.experiment import Experiment
from tests.small_models import small_model

TASK = """
import es_ray
NUMBER = 5
class Plain:
    pass
class Wants(es_ray.Task):
    def __init__(self, limit):
        self.limit = limit
    def score(self, example, completion):
        return es_ray.Score(0.0)
class Unfinished(es_ray.Task):
    pass
class Passes(Wants):
    def __init__(self, depth=1, **more):
        super().__init__(**more)
class Refuses(Wants):
    def __init__(self):
        raise es_ray.UserError("task.options: none will do")
"""
RULE = """
from es_ray.evolution.optimizers import Direction, Optimizer
import numpy as np
class Counts(Optimizer):
    def initial(self, size):
        return {"t": 0}
    def direction(self, noise_sum, population, arrays):
        return Direction(noise_sum, population), arrays
class Short(Optimizer):
    def direction(self, noise_sum, population, arrays):
        return Direction(noise_sum[:-1]), {}
class Lost(Optimizer):
    def direction(self, noise_sum, population, arrays):
        return Direction(noise_sum, population), {"m": [1.0]}
"""


@pytest.fixture
def own(tmp_path) -> Path:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "rule.py").write_text(RULE)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NUMBER", ["task.name", "NUMBER is of type int", "es_ray.Task"]),
        ("Plain", ["task.name", "Plain", "derived from es_ray.Task"]),
        ("Wants", ["task.options.limit", "Wants(limit)", "needs it"]),
        ("Unfinished", ["task.name", "Unfinished cannot be made", "score"]),
        ("Passes --set task.options.limt=2", ["task.options.limt: ", ":Passes has no", "takes depth, limit"]),
        ("Refuses", ["es-ray: task.options: none will do"]),
        ("Missing", ["task.name", "has no 'Missing'", "Plain"]),
    ],
)
def test_what_is_not_a_task_is_refused(own, cli, name, words):
    name, *more = name.split()
    ended = cli("run", "--local", "--task", f"{own}/task.py:{name}", *more, "--output", own / "run")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err
    assert not (own / "run").exists()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("Counts", 2, ["evolution.optimizer: Counts", "'t' must be a NumPy array, not int"]),
        ("Short", 1, ["evolution.optimizer: Short", "direction has the shape (9727,) for theta of (9728,)"]),
        ("Lost", 1, ["evolution.optimizer: Lost", "'m' must be a NumPy array, not list"]),
    ],
)
def test_a_rule_that_returns_something_else_is_named(own, cli, name, code, words):
    settings = ("--population", 4, "--generations", 1, "--set", "evolution.noise.multiplier=60")
    rule = ("--set", f"evolution.optimizer={own}/rule.py:{name}")
    ended = cli("run", "--local", *settings, *rule, "--output", own / "run")
    assert ended.code == code, ended.err
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err
    assert not (own / "run/generations/0000").exists()


TEMPLATE = "{% for m in messages %}{% if m.content != 'Why?' %}{{ m.content }}{% endif %}{% endfor %}"


def test_a_split_without_data_is_refused_with_its_option_unless_it_may_be_without(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text('{"prompt": "a", "target": "b"}\n')
    config = load().replace(task={"name": "contains", "train": str(file)})
    with pytest.raises(
        UserError, match=r"^task\.test: .* contains has no data .* --test FILE, or set task\.test$"
    ):
        _ = Experiment(config).examples
    assert Experiment(config, optional=("test", "validation")).prompts == {"train": 1}
    with pytest.raises(UserError, match=r"^task\.train: "):
        _ = Experiment(load().replace(task__name="contains"), optional=("test", "validation")).examples


@pytest.mark.parametrize(
    ("engine", "new_tokens", "words"),
    [
        (
            {"kind": "sglang", "sglang": {"context_length": 70}},
            60,
            "exceeds the 64 positions of engine.sglang",
        ),
        (
            {"kind": "sglang", "sglang": {"context_length": 9}},
            60,
            "none of the 3 positions of engine.sglang",
        ),
        ({"kind": "transformers", "sglang": {"context_length": 9}}, 60, None),
        (
            {"kind": "sglang", "sglang": {"context_length": 900}},
            250,
            "exceeds the 250 positions of the model",
        ),
    ],
)
def test_prompts_and_answers_fit_into_the_context_of_model_and_engine(engine, new_tokens, words, tmp_path):
    model = small_model(tmp_path / "model")
    config = load().replace(model__path=str(model), engine=engine, task__max_new_tokens=new_tokens)
    if words is None:
        Experiment(config).check()
        return
    with pytest.raises(UserError, match=words):
        Experiment(config).check()


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ("template", ["train.jsonl, line 2: the prompt has no tokens", "chat template"]),
        ("words", ["train.jsonl, line 2: the tokenizer of", "refuses the prompt", "[UNK]"]),
    ],
)
def test_a_prompt_that_the_tokenizer_leaves_nothing_of_is_named(tmp_path, cli, tokenizer, words):
    model, train = small_model(tmp_path / "model", "llama"), tmp_path / "train.jsonl"
    train.write_text('{"prompt": "How", "target": "So"}\n{"prompt": "Why?", "target": "So"}\n')
    if tokenizer == "template":
        (model / "chat_template.jinja").write_text(TEMPLATE)
    else:
        (model / "chat_template.jinja").unlink()
        one_word = Tokenizer(WordLevel({"How": 0}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=one_word).save_pretrained(model)
    data = ("--train", train, "--test", train, "--output", tmp_path / "run")
    for more in ((), ("--dry-run",)):
        ended = cli("run", "--local", "--model", model, *data, *more)
        assert ended.code == 2, ended.err
        assert ended.err.count("\n") == 1
        for word in words:
            assert word in ended.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("prompts", "code"), [(("How come?", "How so?", "Why?"), 2), (("Ha", "Why?", "How so?"), 1)]
)
def test_of_many_prompts_the_longest_and_the_shortest_are_checked(tmp_path, cli, monkeypatch, prompts, code):
    """What only a worker finds, in the middle of a run, is no longer bad input."""
    monkeypatch.setattr("es_ray.experiment.MOST_TOKENISED", 1)
    model, train = small_model(tmp_path / "model", "llama"), tmp_path / "train.jsonl"
    (model / "chat_template.jinja").write_text(TEMPLATE)
    train.write_text("".join(f'{{"prompt": "{prompt}", "target": "So"}}\n' for prompt in prompts))
    test = tmp_path / "test.jsonl"
    test.write_text('{"prompt": "How", "target": "So"}\n')
    files = ("--train", train, "--test", test, "--output", tmp_path / "run")
    ended = cli("run", "--local", "--model", model, *files, "--population", 2, "--generations", 1)
    assert ended.code == code, ended.err
    assert ended.err.count("\n") == 1
    assert f"train.jsonl, line {prompts.index('Why?') + 1}: the prompt has no tokens" in ended.err
    assert (tmp_path / "run").exists() == (code == 1)


@pytest.mark.parametrize(("most", "rows"), [("auto", 4 * 6 * 3 + 2 * 5 * 3), (50, 50), (1000, 102)])
def test_the_largest_batch_is_a_shard_with_the_tests_of_centre_and_base_model(tmp_path, most, rows):
    """Four candidates with 6 of the training prompts, and two with 5 test prompts; 3 samples of each."""
    for name, count in (("train", 9), ("test", 5)):
        lines = [f'{{"prompt": "{name} {number}", "target": "So."}}\n' for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    config = load().replace(
        engine={"shard": 4, "rows": most}, task=files | {"batch": 6, "samples": 3, "temperature": 1.0}
    )
    assert Experiment(config).workload.rows == rows


def test_a_worker_knows_the_workload_but_not_the_examples():
    config = load()
    workload = Experiment(config).workload
    worker = Experiment(config.replace(task={"train": "/nowhere.jsonl", "test": "/nowhere.jsonl"}), workload)
    assert worker.workload is workload
    for name in ("examples", "prompt_ids", "prompts"):
        with pytest.raises(RunError, match=r"only with the driver; an engine gets experiment\.workload"):
            getattr(worker, name)


def test_the_public_names_are_those_that_dir_shows():
    import es_ray

    assert set(es_ray.__all__) <= set(dir(es_ray))
    for name in es_ray.__all__:
        assert getattr(es_ray, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        es_ray.no_such_name  # noqa: B018
