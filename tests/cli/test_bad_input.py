"""Bad input: exit code 2, one line that names the key, the value and what is allowed, nothing written."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from es_ray.paths import data_dir
from tests.short_runs import command, es_ray
from tests.small_models import edit_json, small_model

TINY = data_dir() / "tiny_chat"


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with its size and when it was changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, finished) -> Path:
    """A folder with all kinds of broken things, and a complete run, in it."""
    here = tmp_path_factory.mktemp("prepared")
    good = json.dumps({"prompt": "a", "target": "b"})
    texts = {
        "torn.yaml": "evolution: {seed: 1",
        "list.yaml": "- evolution\n",
        "binary.yaml": "\x00\x01",
        "torn.jsonl": f'{good}\n{good}\n{{"prompt": "a", "tar',
        "no-target.jsonl": f'{good}\n{{"prompt": "a"}}\n',
        "empty.jsonl": "",
        "file.txt": "in the way",
        "used/notes.txt": "mine",
        "empty-run/config.yaml": "{}\n",
        "torn-run/config.yaml": "model: {",
        "no-model/readme.txt": "nothing here",
        "torn-model/config.json": '{"model_type": "qwen2", ',
        "strange-model/config.json": '{"model_type": "no-such-architecture"}',
        "untyped-model/config.json": "{}",
        "list-model/config.json": "[]",
        "t5-model/config.json": '{"model_type": "t5", "d_model": 32, "num_layers": 1, "vocab_size": 768}',
    }
    for name, text in texts.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    (here / "empty").mkdir()
    (here / "latin1.jsonl").write_bytes('{"prompt": "Größe", "target": "b"}'.encode("latin-1"))
    shutil.copytree(finished.path, here / "run")

    def model(name: str) -> Path:
        return shutil.copytree(TINY, here / name, ignore=shutil.ignore_patterns("*.py", "*.md"))

    model("no-tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (here / "no-tokenizer" / name).unlink()
    (model("torn-tokenizer") / "tokenizer.json").write_text('{"version": "1.0", ')
    (model("no-template") / "chat_template.jinja").unlink()
    (model("torn-template") / "chat_template.jinja").write_text("{% for message in messages %}")
    (model("no-weights") / "model.safetensors").unlink()
    torn = model("torn-weights") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    edit_json(model("other-shapes") / "config.json", hidden_size=64)
    edit_json(model("few-words") / "config.json", vocab_size=100)
    edit_json(model("odd-heads") / "config.json", num_attention_heads="four")
    small_model(here / "two-layers")
    return here


@pytest.fixture
def here(prepared, monkeypatch):
    """The prepared folder as the working directory; the test fails if anything in it changes."""
    monkeypatch.chdir(prepared)
    before = files(prepared)
    yield prepared
    assert files(prepared) == before, "something was written"


CONFIGURATION = [
    ("--set evolution.popluation=4", "evolution.popluation", "evolution.population"),
    ("--set evoluton.seed=4", "evoluton", "evolution"),
    ("--set nonsense.x=4", "nonsense", "evolution"),
    ("--set evolution.seed", "evolution.seed", "section.key=value"),
    ("--set evolution.seed=[", "evolution.seed=[", "YAML"),
    ("--population 1", "evolution.population", "1", "2"),
    ("--population 0", "evolution.population", "0", "2"),
    ("--population -5", "evolution.population", "-5", "2"),
    ("--population many", "--population", "many", "integer"),
    ("--population 2.5", "--population", "2.5", "integer"),
    ("--generations 0", "evolution.generations", "0", "1"),
    ("--seed -1", "evolution.seed", "-1", "0"),
    ("--seed 99999999999999999999", "evolution.seed", "99999999999999999999"),
    ("--population 7 --set evolution.antithetic=true", "population", "7", "even"),
    ("--set evolution.learning_rate=-1", "evolution.learning_rate", "-1", "greater than 0"),
    ("--set evolution.learning_rate=nan", "evolution.learning_rate", "nan"),
    ("--set evolution.learning_rate=.inf", "evolution.learning_rate", "inf"),
    ("--set evolution.shaping=best", "evolution.shaping", "best", "zscore", "centered-rank", "none"),
    ("--set evolution.noise.kind=loud", "evolution.noise.kind", "loud", "per-layer", "constant"),
    ("--set lora.rank=0", "lora.rank", "0", "1"),
    ("--set lora.layers=some", "lora.layers", "some", "all", "0-9"),
    ("--set lora.layers=3-1", "lora.layers", "3-1"),
    ("--set lora.layers=0-9", "lora.layers", "0-9", "0-3"),
    ("--set lora.layers=4", "lora.layers", "4", "0-3"),
    ("--set lora.target_modules=[q_proj,c_attn]", "lora.target_modules", "c_attn", "down_proj"),
    ("--set lora.target_modules=[lm_head]", "lora.target_modules", "lm_head", "q_proj"),
    ("--set lora.target_modules=[]", "lora.target_modules"),
    ("--set init.mode=zero", "init.mode", "zero", "centre", "population"),
    ("--set task.max_new_tokens=100000", "task.max_new_tokens", "100000", "512"),
    ("--set task.max_new_tokens=505", "task.max_new_tokens", "505", "512"),
    ("--set task.max_new_tokens=0", "task.max_new_tokens", "0", "1"),
    ("--task poetry", "task.name", "poetry", "conciseness"),
    ("--engine vllm", "engine.kind", "vllm", "transformers", "sglang"),
    ("--engine sglang", "engine.kind", "sglang", "not installed", "es-ray[sglang]"),
    ("--preset tiny", "tiny", "tiny-chat", "seed-conciseness"),
    ("--config missing.yaml", "missing.yaml", "no such file"),
    ("--config empty", "empty"),
    ("--config torn.yaml", "torn.yaml", "YAML"),
    ("--config list.yaml", "list.yaml", "evolution:"),
    ("--config binary.yaml", "binary.yaml"),
    ("--config torn.jsonl", "torn.jsonl"),
]
DATA = [
    ("--set task.train=missing.jsonl", "missing.jsonl", "no such file"),
    ("--set task.test=empty", "empty", "no such file"),
    ("--set task.train=torn.jsonl", "torn.jsonl", "line 3"),
    ("--set task.test=no-target.jsonl", "no-target.jsonl", "line 2", "target"),
    ("--set task.train=empty.jsonl", "empty.jsonl", "no examples"),
    ("--set task.train=latin1.jsonl", "latin1.jsonl", "UTF-8"),
]
MODELS = [
    ("--model ./missing", "model.path", "./missing"),
    ("--model /missing/model", "model.path", "/missing/model"),
    ("--model missing", "model.path", "missing", "bundled"),
    ("--model no-model", "model.path", "no-model", "config.json"),
    ("--model file.txt", "model.path", "file.txt"),
    ("--model no-such-owner/no-such-model", "model.path", "no-such-owner/no-such-model"),
    ("--model torn-model", "model.path", "torn-model/config.json", "cut short"),
    ("--model strange-model", "model.path", "strange-model"),
    ("--model untyped-model", "model.path", "untyped-model"),
    ("--model list-model", "model.path", "list-model"),
    ("--model t5-model", "model.path", "t5-model"),
    ("--model odd-heads", "model.path", "odd-heads"),
    ("--model no-tokenizer", "model.path", "no-tokenizer", "has no tokenizer", "copy the complete"),
    ("--model torn-tokenizer", "model.path", "torn-tokenizer/tokenizer.json", "cut short"),
    ("--model no-template --set model.chat=always", "model.chat", "no-template", "no chat template"),
    ("--model torn-template", "model.path", "the chat template of", "torn-template"),
    ("--model no-weights", "model.path", "no-weights"),
    ("--model torn-weights", "model.path", "torn-weights/model.safetensors", "cut short"),
    ("--model other-shapes", "model.path", "other-shapes"),
    ("--model few-words", "model.path", "few-words"),
    ("--model two-layers --set lora.layers=0,3", "lora.layers", "layer 3", "0-1"),
]
PLACES = [
    ("--output used", "output.dir", "used", "not empty"),
    ("--output run", "output.dir", "run", "--resume"),
    ("--output file.txt", "output.dir", "file.txt", "not a folder"),
    ("--output file.txt/run", "output.dir", "file.txt/run"),
    ("--output /proc/es-ray", "output.dir", "/proc/es-ray"),
    ("--local --workers 2", "--local", "--workers"),
    ("--local --address auto", "--local", "--address"),
    ("--local --set cluster.workers=2", "--local", "leave out --set cluster.workers"),
    ("--local --set cluster.address=auto", "--local", "leave out --set cluster.address"),
    ('--local --set cluster={"workers":2}', "--local", "leave out --set cluster.workers"),
    ('--local --set cluster={"address":"auto"}', "--local", "leave out --set cluster.address"),
    ("--local --set engine.processes=2", "--local", "leave out --set engine.processes"),
    ("--local --set cluster=5", "cluster", "5"),
    ("--local --set cluster.workers=many", "cluster.workers", "many"),
    ("--local --set cluster", "--set cluster", "section.key=value"),
    ("--engine transformers --set engine.sglang.tp=2", "engine.sglang.tp", "2", "no effect", "transformers"),
    ("--set model.revision=v2", "model.revision", "'v2'", "no effect", "the bundled model"),
    ("--model . --set model.revision=v2", "model.revision", "'v2'", "no effect", "the folder ."),
    ("--workers -1", "workers", "-1", "0"),
    ("--workers 0 --address auto", "cluster.address", "auto"),
    ("--workers many", "--workers", "many", "integer"),
    ("--address not-an-address", "--address", "not-an-address"),
    ("--resume", "--resume", "--output"),
    ("--resume --output missing", "--resume", "missing"),
    ("--resume --output used", "--resume", "used"),
    ("--resume --output empty", "--resume", "empty"),
    ("--resume --output torn-run", "torn-run", "YAML"),
    ("--resume --output run --seed 5", "evolution.seed", "12345678901", "5"),
    ("--resume --output run --set lora.rank=2", "lora.rank", "1", "2"),
    ("--resume --output run --population 8", "evolution.population", "6", "8"),
    ("--resume --output run --generations 2", "evolution.generations", "2", "4"),
    ("--resume --output run --preset tiny-chat", "--preset", "leave it out"),
    ("--set evolution.beta1=0.5", "evolution.beta1", "0.5", "no effect", "the optimizer sgd"),
    ("--set evolution.optimizer=adam --set evolution.momentum=0.5", "evolution.momentum", "it takes beta1"),
    (
        "--set task.batch=1 --set task.batch_by=member --set evolution.antithetic=false",
        "task.batch_by",
        "set evolution.antithetic=true",
    ),
    (
        "--task contains",
        "task.train and task.test",
        "contains has no data of its own",
        "give --train FILE and --test FILE",
    ),
    ("--task contains --train trian.jsonl", "trian.jsonl: no such file"),
    ("--task contains --test tset.jsonl", "tset.jsonl: no such file"),
    ("--no-such-option", "--no-such-option"),
    ("--set", "--set"),
    ("surplus", "surplus"),
]
RECORDED = [
    ("evaluate missing", "missing", "run"),
    ("evaluate used", "used", "config.yaml"),
    ("evaluate empty-run", "empty-run", "generation"),
    ("evaluate file.txt", "file.txt"),
    ("evaluate torn-run", "torn-run"),
    ("evaluate run --generation 9", "--generation", "9", "0-3"),
    ("evaluate run --generation -1", "--generation", "-1", "0-3"),
    ("evaluate run --split dev", "--split", "dev", "train", "validation", "test"),
    ("evaluate run --split validation", "--split", "validation", "train", "test"),
    ("evaluate", "RUN_DIR"),
    ("plot missing", "missing"),
    ("plot used", "used"),
    ("plot empty-run", "empty-run"),
    ("plot", "RUN_DIR"),
    ("member missing --generation 0 --index 0 --output new", "missing"),
    ("member used --generation 0 --index 0 --output new", "used"),
    ("member empty-run --generation 0 --index 0 --output new", "empty-run"),
    ("member run --generation 0 --output new", "--index", "--centre"),
    ("member run --generation 0 --index 1 --centre --output new", "--index", "--centre"),
    ("member run --generation 0 --index 6 --output new", "--index", "6", "0-5"),
    ("member run --generation 0 --index -1 --output new", "--index", "-1", "0-5"),
    ("member run --generation 4 --index 0 --output new", "--generation", "4", "0-3"),
    ("member run --generation -1 --centre --output new", "--generation", "-1", "0-3"),
    ("member run --generation 0 --centre --output used", "--output", "used"),
    ("member run --generation 0 --centre --output file.txt", "--output", "file.txt"),
    ("member run --generation 0 --centre --output file.txt/new", "file.txt/new"),
    ("member run --generation 0 --centre", "--output"),
    ("member run --index 0 --output new", "--generation"),
    ("member run --generation first --index 0 --output new", "--generation", "first", "integer"),
    ("envolve", "envolve"),
    ("--no-such-option", "--no-such-option"),
]
RUNS = [(f"run {case[0]}", *case[1:]) for case in CONFIGURATION + DATA + MODELS + PLACES]


def assert_refused(code: int, err: str, words: tuple[str, ...]) -> None:
    assert code == 2, err
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("es-ray: ")
    assert "Traceback" not in err
    assert "internal error" not in err
    for word in words:
        assert word in err, f"{word!r} is missing"


@pytest.mark.parametrize("case", RUNS + RECORDED, ids=lambda case: case[0])
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(case, cli, here):
    arguments, *words = case
    ended = cli(*arguments.split())
    assert_refused(ended.code, ended.err, tuple(words))
    assert ended.out == ""


@pytest.fixture(scope="module", autouse=True)
def unanswered(tmp_path_factory):
    """A run that needs a Ray where there is none, started early, as it is slow."""
    folder = tmp_path_factory.mktemp("unanswered")
    process = subprocess.Popen(
        ["timeout", "--kill-after=1", "30", *command("run", "--address", "127.0.0.1:1")],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, folder
    process.kill()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run --set evolution.popluation=4", ("evolution.popluation", "evolution.population")),
        ("run --model other-shapes", ("model.path", "other-shapes")),
        ("run --engine sglang", ("engine.kind", "sglang", "not installed")),
        ("evaluate used", ("used",)),
        ("envolve", ("envolve",)),
        ("run --population many", ("--population", "many")),
    ],
)
def test_the_real_command_refuses_as_well(arguments, words, here):
    ended = es_ray(*arguments.split())
    assert_refused(ended.returncode, ended.stderr, words)
    assert ended.stdout == ""


def test_layers_beyond_all_memory_are_refused(here):
    """2 GB of address space are enough for the message, and too little for a list of ten billion numbers."""
    limited = ["prlimit", "--as=2000000000", "--", *command("run", "--dry-run", "--set")]
    ended = subprocess.run([*limited, "lora.layers=0-9999999999"], capture_output=True, text=True, timeout=60)
    assert_refused(ended.returncode, ended.stderr, ("lora.layers", "0-9999999999"))


def test_debug_shows_where(here, cli):
    ended = cli("run", "--debug", "--set", "evolution.population=1")
    assert ended.code == 2
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.splitlines()[-1].startswith("es-ray: evolution.population: 1")


def test_a_missing_ray_is_reported(here):
    """`--address auto` where no Ray runs; not testable on a machine where one runs."""
    if any(_name(process) == "raylet" for process in Path("/proc").glob("[0-9]*")):
        pytest.skip("a Ray is running on this machine")
    ended = es_ray("run", "--address", "auto")
    assert_refused(ended.returncode, ended.stderr, ("--address", "auto"))


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:  # it has ended
        return ""


def test_a_ray_that_does_not_answer_is_reported_within_30_seconds(unanswered):
    process, folder = unanswered
    _, err = process.communicate()
    assert process.returncode != 124, "30 s were not enough"
    assert_refused(process.returncode, err, ("--address", "127.0.0.1:1"))
    assert not list(folder.iterdir())
