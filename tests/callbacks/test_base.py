"""A user's own callbacks in real runs."""

import json
import logging
import subprocess
from collections import Counter

import pytest

import es_ray
from es_ray import Callback
from es_ray.config import load
from tests.listeners import listening
from tests.short_runs import GENERATIONS, POPULATION, command, evolved, json_lines


@pytest.fixture
def config(finished, tmp_path):
    return load(finished.path / "config.yaml").replace(output__dir=str(tmp_path / "run"))


@pytest.fixture
def warnings():
    """The warnings of es-ray in this process."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())
    logger = logging.getLogger("es_ray")
    logger.addHandler(handler)
    yield texts
    logger.removeHandler(handler)


class Log(Callback):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def on_run_start(self, run):
        self.run = run
        self.calls.append(("start", run.first))

    def on_progress(self, done, total):
        self.calls.append(("progress", done, total))

    def on_generation_end(self, metrics):
        self.calls.append(("generation", dict(metrics)))
        metrics["reward_mean"] = "spoilt"  # it gets its own copy

    def on_generation_recorded(self, generation):
        folder = self.run.path / f"generations/{generation:04d}"
        self.calls.append(("recorded", generation, (folder / "DONE").is_file()))

    def on_final_evaluation(self):
        self.calls.append(("final",))

    def on_run_end(self, results):
        self.calls.append(("end", json.loads(json.dumps(results))))

    def close(self):
        self.calls.append(("close",))


def test_a_callback_receives_all_events_in_order(config, finished):
    log = Log()
    result = es_ray.run(config, callbacks=[log])
    names = [call[0] for call in log.calls]
    assert [name for name in names if name != "progress"] == [
        "start",
        "generation",
        *["generation", "recorded"] * (GENERATIONS - 1),
        "recorded",
        "final",
        "end",
        "close",
    ]
    assert log.calls[0] == ("start", 0)
    lines = json_lines(result.path / "metrics.jsonl")
    for (_, seen), line in zip([c for c in log.calls if c[0] == "generation"], lines, strict=True):
        del line["seconds"]["record"]
        spread = {key: seen.pop(key) for key in ("changed_members", "distinct_members")}
        assert seen == line
        folder = result.path / f"generations/{line['generation']:04d}"
        members = json_lines(folder / "population.jsonl")
        answers = Counter(tuple(e["completion"] for e in member["examples"]) for member in members)
        assert spread["distinct_members"] == len(answers)
        unchanged = round((1 - spread["changed_members"]) * POPULATION)
        assert unchanged in (0, *answers.values())  # those that answer as the centre, which no file has
    assert [c[1:] for c in log.calls if c[0] == "recorded"] == [(g, True) for g in range(GENERATIONS)]
    done = [c[1:] for c in log.calls if c[0] == "progress"]
    total = POPULATION * 2 + 2 + 8  # the centre answers the test prompts too
    at_end = [c[1:] for c in log.calls[log.calls.index(("final",)) :] if c[0] == "progress"]
    answers = (3 if result.test_results["selected"]["generation"] == GENERATIONS - 1 else 4) * 8
    assert (at_end[0], at_end[-1]) == ((0, answers), (answers, answers))
    assert at_end == sorted(at_end)
    assert done.count((0, total)) >= GENERATIONS - 1
    reported = [at for at, of in done if of == total]  # scores come in a thread of their own
    assert {0, total} <= set(reported) and max(reported) == total
    assert next(c for c in log.calls if c[0] == "end")[1] == result.test_results
    assert evolved(result.path) == evolved(finished.path)
    assert log.run.path == result.path
    assert log.run.prompts == {"train": 2, "test": 8}
    assert (log.run.parameters, log.run.modules, log.run.layers) == (9728, 28, 4)


METHODS = (
    "on_run_start", "on_progress", "on_generation_end", "on_generation_recorded", "on_final_evaluation",
    "on_run_end", "close",
)  # fmt: skip


def broken_in(method: str) -> Log:
    """A callback of a class named for the method in which it raises."""

    def fail(self, *_):
        self.calls.append((method,))
        raise ValueError("no such tracker")

    return type(f"Broken_{method}_", (Log,), {method: fail})()


def test_a_callback_that_raises_is_reported_once_and_ends_nothing(config, finished, warnings):
    """One for each method, all in one run."""
    broken, other = {method: broken_in(method) for method in METHODS}, Log()
    result = es_ray.run(config.replace(evolution__generations=1), callbacks=[*broken.values(), other])
    for method, callback in broken.items():
        (warning,) = [text for text in warnings if f"callback Broken_{method}_ " in text]
        assert "ValueError: no such tracker" in warning
        assert [call[0] for call in callback.calls].count(method) == 1
    assert len([text for text in warnings if "callback" in text]) == len(METHODS)
    assert {call[0] for call in other.calls} == {
        "start", "progress", "generation", "recorded", "final", "end", "close"
    }  # fmt: skip
    assert other.calls[-1] == ("close",)
    files, wanted = (
        {name: file for name, file in evolved(run).items() if name.startswith("generations/0000/")}
        for run in (result.path, finished.path)
    )
    assert files == wanted and len(files) > 4


def test_a_callback_is_closed_where_a_run_ends_early(config):
    class Pressed(Log):
        def on_generation_end(self, metrics):
            raise KeyboardInterrupt

    pressed = Pressed()
    with pytest.raises(KeyboardInterrupt, match="es-ray run --resume"):
        es_ray.run(config, callbacks=[pressed])
    assert pressed.calls[-1] == ("close",)
    assert ("final",) not in pressed.calls


def test_a_callback_raising_while_it_is_closed_after_a_failure_does_not_hide_the_failure(config):
    class Loud(Callback):
        def close(self):
            raise OSError("disk")

    wrong = config.replace(task__train="/nowhere.jsonl")
    with pytest.raises(es_ray.errors.UserError, match="no such file"):
        es_ray.run(wrong, callbacks=[Loud()])


def test_a_callback_is_closed_where_a_run_is_refused(config):
    log = Log()
    with pytest.raises(es_ray.UserError):
        es_ray.run(config.replace(engine__kind="no-such-engine"), callbacks=[log])
    assert log.calls == [("close",)]


def test_ctrl_c_while_one_is_closed_closes_the_others_and_is_raised(config):
    class Pressed(Callback):
        def close(self):
            raise KeyboardInterrupt

    log = Log()
    small = config.replace(evolution__generations=1)
    with pytest.raises(KeyboardInterrupt):
        es_ray.run(small, callbacks=[Pressed(), log])
    assert log.calls[-1] == ("close",)


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_printed_ends_nothing_either(config):
    def fail(metrics):
        raise UnspeakableError

    result = es_ray.run(
        config.replace(evolution__generations=1), callbacks=[listening(on_generation_end=fail)]
    )
    assert result.test_results


def test_a_callback_cannot_change_what_others_see(config):
    def clear(given):
        given.clear()

    log = Log()
    spoils = listening(on_generation_end=clear, on_run_end=clear, on_base_evaluated=clear)
    result = es_ray.run(config.replace(evolution__generations=1), callbacks=[spoils, log])
    assert set(result.test_results) == {"base", "centre", "best", "selected"}
    assert next(c for c in log.calls if c[0] == "end")[1] == result.test_results


def test_closing_the_pipe_that_reads_the_output_does_not_end_the_run(config, tmp_path):
    """`es-ray run | head -1`: the console is left out, the run is not."""
    (tmp_path / "config.yaml").write_text(config.replace(evolution__generations=1).to_yaml())
    words = command("run", "--config", tmp_path / "config.yaml", "--output", tmp_path / "run")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (tmp_path / "run/test_results.json").is_file()
