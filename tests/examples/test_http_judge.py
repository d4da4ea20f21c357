"""The judge over real sockets: the stand-in as a process, and servers that misbehave.

The commands of docs/how-to/judge.md are run as they stand there, on another port.
"""

import asyncio
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from es_ray import Example
from es_ray.errors import UserError
from es_ray.imports import resolve
from tests.docs.pages import ROOT, blocks
from tests.short_runs import json_lines

EXAMPLES = ROOT / "examples"
JUDGE = resolve("task.name", f"{EXAMPLES / 'http_judge.py'}:HttpJudge", {})
PAGE = ROOT / "docs/how-to/judge.md"
PARIS = Example("What is the capital of France?", "Paris")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[str]:
    """The URL of the stand-in, started as its docstring says."""
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "judge_stand_in.py", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


@contextmanager
def server(reply: Callable[[dict, dict], tuple[int, str]]) -> Iterator[str]:
    """An endpoint that answers a request's headers and JSON with a status and text."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text = reply(dict(self.headers), asked)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


def wanted(completion: str, target: str) -> float:
    """The stand-in's rule, as its docstring says it."""
    if target.lower() not in completion.lower():
        return 0.0
    at = completion.lower().index(target.lower())
    further = (completion[:at] + completion[at + len(target) :]).split()
    return max(10 - len(further) // 2, 0) / 10


@pytest.mark.parametrize(
    ("completion", "reward", "correct"),
    [("Paris", 1.0, True), ("It is paris, I think", 0.8, True), ("It is Rome", 0.0, False), ("", 0.0, False)],
)
def test_the_reward_is_the_grade(stand_in, completion, reward, correct):
    score = asyncio.run(JUDGE(stand_in, "rule").score(PARIS, completion))
    assert score.reward == pytest.approx(reward) == wanted(completion, "Paris")
    assert score.metrics == {"correct": correct, "words": len(completion.split())}


def test_the_page_s_commands_work_with_the_stand_in(stand_in, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    text = "".join(block.text for block in blocks(PAGE) if block.runner)
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    start, check, run = (
        [word.replace("http://localhost:8000/v1", stand_in) for word in words] for words in lines
    )
    assert start[:2] == ["python", "examples/judge_stand_in.py"]
    checked = cli(*check[1:])
    assert checked.code == 0, checked.out + checked.err
    short = ("--generations", 2, "--population", 4, "--set", "task.max_new_tokens=8", "--local")
    ended = cli(*run[1:], *short, "--output", "run")
    assert ended.code == 0, ended.err
    rows = json_lines(ROOT / "data/conciseness/train.jsonl")
    targets = {row["prompt"]: row["target"] for row in rows}
    given = [
        example
        for generation in range(2)
        for member in json_lines(tmp_path / f"run/generations/{generation:04d}/population.jsonl")
        for example in member["examples"]
    ]
    for example in given:
        assert example["reward"] == pytest.approx(wanted(example["completion"], targets[example["prompt"]]))
    assert {example["reward"] > 0 for example in given} == {True, False}
    assert {"centre_correct", "test_words"} <= set(json_lines(tmp_path / "run/metrics.jsonl")[1])


def test_the_judge_gets_the_question_and_the_key_from_the_environment(monkeypatch):
    seen = []
    monkeypatch.setenv("JUDGE_API_KEY", "a-key")
    with server(lambda *request: seen.append(request) or (200, "7")) as url:
        assert asyncio.run(JUDGE(url + "/", "its-name").score(PARIS, "In Paris.")).reward == 0.7
    ((headers, asked),) = seen
    assert headers["Authorization"] == "Bearer a-key"
    assert asked["model"] == "its-name" and asked["temperature"] == 0
    (message,) = asked["messages"]
    for part in (PARIS.prompt, "<reference>Paris</reference>", "<answer>In Paris.</answer>"):
        assert part in message["content"]


def test_many_answers_are_judged_at_once():
    together = threading.Barrier(8)

    def reply(headers: dict, asked: dict) -> tuple[int, str]:
        together.wait(timeout=10)  # until eight requests are there
        return 200, "10"

    async def scores(task) -> list[float]:
        asked = (task.score(PARIS, f"Paris {number}") for number in range(16))
        return [score.reward for score in await asyncio.gather(*asked)]

    with server(reply) as url:
        assert asyncio.run(scores(JUDGE(url, "m", at_once=8))) == [1.0] * 16


def test_a_busy_judge_is_asked_again():
    replies = iter([(503, ""), (429, ""), (200, "4")])
    with server(lambda headers, asked: next(replies)) as url:
        assert asyncio.run(JUDGE(url, "m").score(PARIS, "Paris")).reward == 0.4
    assert next(replies, None) is None


def test_a_judge_that_cannot_be_reached_is_an_error():
    with server(lambda headers, asked: (200, "1")) as url:
        pass
    with pytest.raises(RuntimeError, match=f"{url}/chat/completions: .*refused"):
        asyncio.run(JUDGE(url, "m").score(PARIS, "Paris"))


@pytest.mark.parametrize(
    ("status", "text", "message"),
    [
        (401, "no such key", "401 .*no such key"),
        (200, "There are 7 days in a week.", "is no grade"),
        (200, "It is good.", "'It is good.'.* is no grade"),
        (200, "100", "'100'.* is no grade"),
        (200, "-3", "'-3'.* is no grade"),
    ],
)
def test_what_is_no_grade_is_an_error_at_once(status, text, message):
    asked = []
    with (
        server(lambda *request: asked.append(request) or (status, text)) as url,
        pytest.raises((RuntimeError, ValueError), match=message),
    ):
        asyncio.run(JUDGE(url, "m").score(PARIS, "Paris"))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("text", "grade"), [("7", 0.7), ("Grade: 8 / 10.", 0.8), (" 6.5\n", 0.65), ("10", 1)]
)
def test_a_grade_may_be_written_in_several_ways(text, grade):
    with server(lambda headers, asked: (200, text)) as url:
        assert asyncio.run(JUDGE(url, "m").score(PARIS, "Paris")).reward == pytest.approx(grade)


def test_a_row_without_a_target_is_refused_before_the_run():
    with pytest.raises(UserError, match=r"here\.jsonl, line 3: the judge needs a target"):
        JUDGE("http://localhost:1/v1", "m").check_example(Example("?", where="here.jsonl, line 3"))
