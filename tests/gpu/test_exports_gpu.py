"""Exports loaded by SGLang alone, by the calls that its documentation shows: no es-ray in that process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from es_ray.engines.sglang import compat
from tests import plain_peft
from tests.gpu.conftest import sglang_settings
from tests.short_runs import command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
NEW_TOKENS = 40
NEAR_TIE = 0.05
"""Two tokens whose scores are so close, in nats, may change places between two engines in float16."""
QUESTIONS = ["What is the capital of France?", "Name a primary color.", "What is 2 + 2?", "Who wrote Hamlet?"]
SERVE = """\
import json, sys
import sglang

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    engine = sglang.Engine(**asked["engine"])
    sampling = {"temperature": 0, "max_new_tokens": asked["tokens"]}
    answers = engine.generate(input_ids=asked["prompts"], sampling_params=sampling, **asked["call"])
    print("ANSWERS " + json.dumps([answer["output_ids"] for answer in answers]))
    engine.shutdown()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "run"
    es_ray("run", "--local", "--engine", "transformers", "--output", folder)
    return folder


def es_ray(*arguments: object) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def served(folder: Path, prompts: list[list[int]], engine: dict, call: dict) -> list[list[int]]:
    """Greedy answers of a plain `sglang.Engine`."""
    script = folder / "serve.py"
    script.write_text(SERVE)
    settings = {"dtype": "float16", **sglang_settings(), **engine}
    asked = {"engine": settings, "prompts": prompts, "tokens": NEW_TOKENS, "call": call}
    arguments = [sys.executable, str(script), json.dumps(asked)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    return json.loads(line.removeprefix("ANSWERS "))


def compare(model, prompts: list[list[int]], answers: list[list[int]], base, stop_ids: list[int]) -> None:
    """As plain transformers answers, up to near ties; and not as the base model does."""
    wanted = [plain_peft.greedy(model, prompt, stop_ids, NEW_TOKENS) for prompt in prompts]
    for prompt, mine, theirs in zip(prompts, answers, wanted, strict=True):
        if mine != theirs:
            at = next(i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y)
            scores = plain_peft.logits(model, [*prompt, *theirs[:at]])[-1]
            assert abs(float(scores[mine[at]] - scores[theirs[at]])) <= NEAR_TIE
    assert answers != [plain_peft.greedy(base, prompt, stop_ids, NEW_TOKENS) for prompt in prompts]


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_sglang_loads_an_export_as_its_documentation_says(form, run, tmp_path):
    exported = tmp_path / form
    es_ray("export", run, "--last", "--output", exported, *(["--merged"] if form == "merged" else []))
    if form == "merged":
        model = plain_peft.base_model(exported, torch.float32)
        base_path = json.loads((run / "generations/0000/adapter/adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        engine, call = {"model_path": str(exported)}, {}
    else:
        model = plain_peft.adapted_model(exported, torch.float32)
        base_path = json.loads((exported / "adapter_config.json").read_text())["base_model_name_or_path"]
        engine = {"model_path": base_path, "enable_lora": True, "lora_paths": [f"evolved={exported}"]}
        call = {"lora_path": ["evolved"] * len(QUESTIONS)}
    tokenizer = plain_peft.tokenizer_of(base_path)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    stops = json.loads((Path(base_path) / "generation_config.json").read_text())["eos_token_id"]
    answers = served(tmp_path, prompts, engine, call)
    base = plain_peft.base_model(base_path, torch.float32)
    compare(model, prompts, answers, base, stops if isinstance(stops, list) else [stops])
